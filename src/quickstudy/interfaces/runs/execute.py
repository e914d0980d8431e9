"""Run a recipe: train, evaluate and write the report into the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quickstudy.base.atomic import write_atomically
from quickstudy.base.modules import device_of
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.core import Learner, Task
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.validation import Validation
from quickstudy.files.registry import LEARNERS
from quickstudy.files.storage import save
from quickstudy.interfaces.runs.assemble import Parts, prepare
from quickstudy.interfaces.runs.folder import Run, refuse_not_empty
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.reports.insights import insights
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.views import view
from quickstudy.tasks.numbering import Stream, draw, generator, task_seed
from quickstudy.training.fit import Training, fit
from quickstudy.training.log import read_metrics
from quickstudy.training.optimisers import adam, sgd
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


def begin(recipe: Recipe, path: Path | None = None, *, command: str = "") -> tuple[Run, Parts]:
    """A new run and its parts; a recipe that cannot run raises an error and leaves no folder."""
    if path is not None:
        refuse_not_empty(path)  # before loading data, which may take long
    parts = prepare(recipe)
    if recipe.compile:
        refuse_without_compiler(device_of(parts.learner))
    return Run.create(parts.recipe, path, command=command), parts


def explain(recipe: Recipe) -> str:
    """How training would compute the recipe's steps; trains nothing and writes nothing."""
    parts = prepare(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return explain_training(
        parts.learner, parts.sources.train, parts.recipe.budget().tasks_per_step, seed=recipe.seed,
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
    training = _train(run, parts, resume, progress)
    if not training.finished:
        return Interrupted(training.interrupted_by)
    recipe, learner, data = parts.recipe, parts.learner, parts.data
    shape = tuple(data.train.inputs.shape[1:])
    save(learner, run.path / "learner.safetensors", {"shape": shape, "data": recipe.data})
    evaluation = evaluate(learner, parts.sources.test, recipe.test_tasks, seed=recipe.seed)
    content = json.dumps(evaluation.to_json(), indent=1) + "\n"
    write_atomically(run.path / "evaluation.json", content.encode())
    _report(run, parts, evaluation)
    return evaluation


def _train(run: Run, parts: Parts, resume: bool, progress: bool) -> Training:
    recipe, budget = parts.recipe, parts.recipe.budget()
    validation = Validation(
        parts.sources.val, every=budget.validate_every, tasks=100, patience=recipe.patience
    )
    optimiser = {"adam": adam, "sgd": sgd}[budget.optimiser]
    return fit(
        parts.learner, parts.sources.train, budget.steps, budget.tasks_per_step,
        optimiser=optimiser(budget.rate), schedule=cosine, validation=validation, seed=recipe.seed,
        run=run.path, resume=resume, progress=progress, compute=recipe.compute,
        checkpoint_every=max(10, min(200, budget.steps // 10)),
    )  # fmt: skip


def _report(run: Run, parts: Parts, evaluation: Evaluation) -> None:
    """Write ``report.html`` from the run's log and the first of its test tasks."""
    recipe, source, origin = run.recipe, parts.sources.test, run.origin
    learner = parts.learner.cpu()  # as the tasks are; a few tasks take little time

    def test_task(index: int) -> tuple[Learner, Task, Sequence[str]]:
        names = source.names(generator(task_seed(evaluation.seed, index, Stream.TEST)))
        return learner, draw(source, evaluation.seed, index, Stream.TEST), names

    first = insights(*test_task(0))
    further = range(1, min(REPORTED_TASKS, recipe.test_tasks))
    facts = RunFacts(
        title=f"{LEARNERS[recipe.learner].title} on {parts.data.card.title}",
        subtitle=f"{recipe.ways}-way {recipe.shots}-shot, {recipe.queries} queries per class; "
        "test classes do not occur in training",
        evaluation=evaluation,
        metrics=read_metrics(run.path / "metrics.jsonl"),
        views=[first.view, *(view(*test_task(index)) for index in further)],
        insights=first,
        config=recipe.to_json(),
        versions=origin.versions,
        command=origin.command,
        commit=origin.commit,
        created=origin.created,
    )
    write_atomically(run.path / "report.html", page(facts).encode())
