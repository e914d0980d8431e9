"""Run a recipe: train, evaluate and write the report into the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quickstudy.base.atomic import write_atomically
from quickstudy.base.modules import device_of
from quickstudy.base.words import count
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.core import Learner, Task
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.pictures import PictureFormat
from quickstudy.datasets.spectrograms import SpectrogramFormat
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.timing import timed_on
from quickstudy.evaluation.validation import Validation
from quickstudy.files.storage import save
from quickstudy.interfaces.runs.assemble import Parts, make_test_source, prepare
from quickstudy.interfaces.runs.choice import choose, keep_choice, kept_choice
from quickstudy.interfaces.runs.featured import (
    Featured,
    backbone_of,
    featured,
    is_fixed,
    on_features,
    on_small_pictures,
)
from quickstudy.interfaces.runs.fitted import keep_split, what_is_new
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.interfaces.runs.run_files import refuse_not_empty
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.reports.insights import insights
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.views import view
from quickstudy.tasks.numbering import Stream, draw, generator, task_seed
from quickstudy.training.fit import fit
from quickstudy.training.log import Step, Training, read_metrics
from quickstudy.training.optimisers import OptimiserMaker, adam, sgd
from quickstudy.training.plan import explain as explain_training
from quickstudy.training.schedules import cosine

REPORTED_TASKS = 20
"""Test tasks that the report shows, the first ones."""


@dataclass(frozen=True)
class Interrupted:
    """A run that the signal with the number ``signal`` ended early."""

    signal: int

    @property
    def exit_code(self) -> int:
        """With which a shell expects the process to end."""
        return 128 + self.signal


def begin(
    recipe: Recipe,
    path: Path | None = None,
    *,
    command: str = "",
    choosing: bool = False,
    progress: bool = True,
) -> tuple[Run, Parts]:
    """A new run and its parts; a recipe that cannot run raises an error and leaves no folder.

    ``choosing``  whether to choose backbone and learner first, see
                  :mod:`quickstudy.interfaces.runs.choice`. The choice is kept in the folder.
    """
    if path is not None:
        refuse_not_empty(path)  # before loading data, which may take long
    recipe, choice = choose(recipe, progress) if choosing else (recipe, None)
    parts = prepare(recipe)
    if recipe.compile:
        refuse_without_compiler(device_of(parts.learner))
    run = Run.create(parts.recipe, path, command=command)
    if choice is not None:
        keep_choice(run.path, choice)
    return run, parts


def explain(recipe: Recipe, *, choosing: bool = False) -> str:
    """How training would compute the recipe's steps; trains nothing and writes nothing."""
    if choosing:
        recipe, _ = choose(recipe, progress=False)
    parts = prepare(recipe)
    if not parts.recipe.budget().steps:
        return f"nothing is trained: {parts.recipe.learner} on {parts.recipe.backbone} has 0 steps"
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return explain_training(
        parts.trained, parts.sources.train, parts.recipe.budget().tasks_per_step, seed=recipe.seed,
        compute=recipe.compute,
    )  # fmt: skip


def execute(
    run: Run, parts: Parts | None = None, *, resume: bool = False, progress: bool = True
) -> Evaluation | Interrupted:
    """Train, evaluate and report.

    Returns :class:`Interrupted` where Ctrl-C, SIGTERM or SIGHUP ended training early; the run can
    then be resumed.

    ``parts``  what :func:`begin` returned; by default made again from the run's recipe.

    Resuming a finished run changes nothing and returns its stored evaluation.
    """
    if resume and run.finished:
        return run.evaluation()
    if run.recipe.threads:
        torch.set_num_threads(run.recipe.threads)
    run.complete_origin()
    parts = parts or prepare(run.recipe)
    learner = train(run, parts, resume=resume, progress=progress)
    if isinstance(learner, Interrupted):
        return learner
    evaluation = evaluate_parts(parts.recipe, parts.data, learner, parts.featured)
    content = json.dumps(evaluation.to_json(), indent=1) + "\n"
    write_atomically(run.path / "evaluation.json", content.encode())
    _report(run, parts, evaluation)
    return evaluation


def evaluate_parts(
    recipe: Recipe,
    data: Dataset,
    learner: Learner,
    found: Featured | None = None,
    *,
    seed: int | None = None,
    baselines: bool = True,
) -> Evaluation:
    """Evaluate ``learner`` on test tasks of ``data``, by their features where it reads only these.

    ``found``  the features, if they are computed already.
    ``seed``   of the tasks; by default that of the recipe.
    """
    seed, tasks = test_seed(recipe) if seed is None else seed, recipe.test_tasks
    source = make_test_source(recipe, data, learner)
    if not is_fixed(learner):
        return evaluate(learner, source, tasks, seed=seed, baselines=baselines)
    found = found or featured(data, backbone_of(learner), ("test",))
    on, raw = (make_test_source(recipe, each, learner) for each in (found.features, found.small))
    evaluation = evaluate(
        on_features(learner), on, tasks, seed=seed, baselines=baselines, raw=raw, of=learner
    )
    return timed_on(source, seed, learner, evaluation)


def test_seed(recipe: Recipe) -> int:
    """The seed of the test tasks: that of the run, unless the recipe says otherwise."""
    return recipe.seed if recipe.test_seed is None else recipe.test_seed


def train(
    run: Run,
    parts: Parts,
    *,
    resume: bool,
    progress: bool,
    on_step: Callable[[Step], object] | None = None,
) -> Learner | Interrupted:
    """Train the learner, unless the recipe has 0 steps, and save it, with its times."""
    keep_split(run.path, parts.data)
    trained = parts.trained
    if isinstance(trained, SimpleShot) and trained.centred:
        trained.centre_on((parts.featured.features if parts.featured else parts.data).train)
    if parts.recipe.budget().steps:
        training = _fit(run, parts, trained, resume, progress, on_step)
        if not training.finished:
            return Interrupted(training.interrupted_by)
        run.keep_times(training.seconds, training.cpu_seconds)
    parts.learner.eval()
    data = parts.data
    pictures = _format_of(data)
    info = {
        "shape": tuple(data.train.inputs.shape[1:]),
        "data": parts.recipe.data,
        "pictures": pictures and pictures.to_json(),
    }
    save(parts.learner, run.path / "learner.safetensors", info)
    return parts.learner


def _format_of(data: Dataset) -> PictureFormat | SpectrogramFormat | None:
    """How the inputs of ``data`` are made from files; None where that is not known."""
    if data.card.sounds:
        return SpectrogramFormat(data.train.inputs.shape[-1])
    return PictureFormat.of(data.train.inputs, data.card.resize)


def _fit(
    run: Run, parts: Parts, learner: Learner, resume: bool, progress: bool,
    on_step: Callable[[Step], object] | None,
) -> Training:  # fmt: skip
    recipe, budget = parts.recipe, parts.recipe.budget()
    source, validation = parts.sources.val, None
    if source is not None and budget.validate_every:
        validation = Validation(
            source, every=budget.validate_every, tasks=100, patience=recipe.patience
        )
    return fit(
        learner, parts.sources.train, budget.steps, budget.tasks_per_step,
        optimiser=optimiser_of(recipe), schedule=cosine, clip=recipe.clip, validation=validation,
        seed=recipe.seed, run=run.path, resume=resume, progress=progress, compute=recipe.compute,
        checkpoint_every=max(10, min(200, budget.steps // 10)), on_step=on_step,
    )  # fmt: skip


def optimiser_of(recipe: Recipe) -> OptimiserMaker:
    """The optimiser of training, at the recipe's rate."""
    budget = recipe.budget()
    return {"adam": adam, "sgd": sgd}[budget.optimiser](budget.rate)


def _report(run: Run, parts: Parts, evaluation: Evaluation) -> None:
    """Write ``report.html`` from the run's log and the first of its test tasks."""
    learner = parts.learner.cpu()  # as the tasks are; a few tasks take little time
    write_report(run, evaluation, (learner, parts.data), found=parts.featured)


def write_report(
    run: Run,
    evaluation: Evaluation,
    shown: tuple[Learner, Dataset] | None,
    path: Path | None = None,
    found: Featured | None = None,
) -> Path:
    """Write the report of ``run`` to ``path``, ``report.html`` in its folder by default.

    ``shown``  the learner and its data, for pictures of test tasks; None leaves the pictures out.
    ``found``  the features of a frozen pretrained backbone, if they are computed already.
    """
    recipe, origin, views, first = run.recipe, run.origin, [], None
    if shown is not None:
        shown = _quickly_shown(*shown, found)
        tasks = _test_tasks(recipe, evaluation, *shown)
        first = insights(*next(tasks))
        views = [first.view, *(view(*task) for task in tasks)]
    facts = RunFacts(
        title=run.title,
        subtitle=f"{recipe.ways}-way {recipe.shots}-shot, "
        f"{count(recipe.queries or 0, 'query', 'queries')} per class; "
        f"{_protocol(run)}{_trained_further(run)}",
        evaluation=evaluation,
        metrics=read_metrics(run.path / "metrics.jsonl") if recipe.budget().steps else [],
        views=views,
        insights=first,
        chosen=[] if (choice := kept_choice(run.path)) is None else choice.lines,
        config=recipe.to_json(),
        versions=origin.versions,
        command=origin.command,
        commit=origin.commit,
        created=origin.created,
    )
    return write_atomically(path or run.path / "report.html", page(facts).encode())


def _protocol(run: Run) -> str:
    """What is new in the test, or that nothing was trained."""
    return what_is_new(run.path) if run.recipe.budget().steps else "nothing was trained over tasks"


def _quickly_shown(
    learner: Learner, data: Dataset, found: Featured | None
) -> tuple[Learner, Dataset]:
    """The learner and the data as they are, or with features that are known for small pictures."""
    if not is_fixed(learner):
        return learner, data
    found = found or featured(data, backbone_of(learner), ("test",))
    return on_small_pictures(learner, found, "test"), found.small


def _trained_further(run: Run) -> str:
    """For a run whose training was made longer: where it was to end before."""
    steps = run.recipe.budget().steps
    ends = [str(end) for end in run.origin.ends if end < steps]
    if not ends:
        return ""
    return (
        f"; training was to end at {', '.join(ends)} steps, then at {steps}, so this is not the "
        f"result of {steps} steps from the start"
    )


def _test_tasks(
    recipe: Recipe, evaluation: Evaluation, learner: Learner, data: Dataset
) -> Iterator[tuple[Learner, Task, Sequence[str]]]:
    """The first test tasks of an evaluation, with the names of their classes."""
    source = make_test_source(recipe, data, learner)
    for index in range(min(REPORTED_TASKS, evaluation.tasks)):
        names = source.names(generator(task_seed(evaluation.seed, index, Stream.TEST)))
        yield learner, draw(source, evaluation.seed, index, Stream.TEST), names
