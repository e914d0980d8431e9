"""Run an application: train, evaluate beside baselines, and write the report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quickstudy.applications.application import Application, Prepared
from quickstudy.base.atomic import write_atomically
from quickstudy.base.modules import device_of
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.core import Learner
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.validation import Validation
from quickstudy.files.storage import save
from quickstudy.interfaces.application_runs.folder import ApplicationRun
from quickstudy.interfaces.application_runs.made import most_tasks
from quickstudy.interfaces.application_runs.made import prepare as make_parts
from quickstudy.interfaces.application_runs.own_files import keep_files
from quickstudy.interfaces.application_runs.recipe import ApplicationRecipe
from quickstudy.interfaces.application_runs.report import write_report
from quickstudy.interfaces.runs.execute import Interrupted
from quickstudy.interfaces.runs.run_files import refuse_not_empty
from quickstudy.training.fit import fit
from quickstudy.training.log import Step, Training
from quickstudy.training.optimisers import adam
from quickstudy.training.plan import explain as explain_training
from quickstudy.training.schedules import cosine


@dataclass(frozen=True)
class ApplicationParts:
    """Everything that a run needs, made from its recipe; the recipe has all defaults filled in."""

    application: Application
    recipe: ApplicationRecipe
    made: Prepared


def prepare(recipe: ApplicationRecipe) -> ApplicationParts:
    """Everything that ``recipe`` describes; ValueError or OSError where it cannot be made."""
    return ApplicationParts(*make_parts(recipe))


def begin(
    recipe: ApplicationRecipe, path: Path | None = None, *, command: str = ""
) -> tuple[ApplicationRun, ApplicationParts]:
    """A new run and its parts; a recipe that cannot run raises an error and leaves no folder."""
    if path is not None:
        refuse_not_empty(path)  # before loading data, which may take long
    parts = prepare(recipe)
    if recipe.compile:
        refuse_without_compiler(device_of(parts.made.learner))
    return ApplicationRun.create(parts.recipe, path, command=command), parts


def explain(recipe: ApplicationRecipe) -> str:
    """How training would compute the recipe's steps; trains nothing and writes nothing."""
    parts = prepare(recipe)
    if not parts.recipe.steps or parts.made.train is None:
        return f"nothing is trained: {parts.recipe.learner} has 0 steps"
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return explain_training(
        parts.made.learner, parts.made.train, parts.recipe.tasks_per_step or 1, seed=recipe.seed,
        compute=recipe.compute,
    )  # fmt: skip


def execute(
    run: ApplicationRun,
    parts: ApplicationParts | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[Step], object] | None = None,
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
    keep_files(run)
    parts = parts or prepare(run.recipe)
    made = parts.made
    if run.steps:
        training = _fit(run, made, resume, progress, on_step)
        if not training.finished:
            return Interrupted(training.interrupted_by)
        run.keep_times(training.seconds, training.cpu_seconds)
    made.learner.eval()
    info = {"application": run.recipe.application, "data": run.recipe.data}
    save(made.learner, run.path / "learner.safetensors", info)
    evaluation = evaluate_parts(run.recipe, made, made.learner)
    content = json.dumps(evaluation.to_json(), indent=1) + "\n"
    write_atomically(run.path / "evaluation.json", content.encode())
    write_report(run, evaluation, made, made.learner)
    return evaluation


def _fit(
    run: ApplicationRun, made: Prepared, resume: bool, progress: bool,
    on_step: Callable[[Step], object] | None,
) -> Training:  # fmt: skip
    recipe, validation = run.recipe, None
    assert made.train is not None
    if made.validation is not None and recipe.validate_every:
        validation = Validation(
            made.validation, every=recipe.validate_every,
            tasks=most_tasks(made.validation, made.validation_tasks), patience=recipe.patience,
        )  # fmt: skip
    return fit(
        made.learner, made.train, run.steps, recipe.tasks_per_step or made.tasks_per_step,
        optimiser=adam(recipe.rate or made.rate), schedule=cosine, clip=recipe.clip,
        objective=made.objective, validation=validation, seed=recipe.seed, run=run.path,
        resume=resume, progress=progress, compute=recipe.compute,
        checkpoint_every=max(10, min(200, run.steps // 10)), on_step=on_step,
    )  # fmt: skip


def test_seed(recipe: ApplicationRecipe) -> int:
    """The seed of the test tasks: that of the run, unless the recipe says otherwise."""
    return recipe.seed if recipe.test_seed is None else recipe.test_seed


def evaluate_parts(
    recipe: ApplicationRecipe,
    made: Prepared,
    learner: Learner,
    *,
    tasks: int | None = None,
    seed: int | None = None,
    baselines: bool = True,
) -> Evaluation:
    """Evaluate ``learner`` on the test tasks, beside the baselines of answer and application.

    ``tasks``, ``seed``  by default those of the recipe.
    """
    tasks = tasks or recipe.test_tasks or made.test_tasks
    seed = test_seed(recipe) if seed is None else seed
    return evaluate(
        learner, made.test, tasks, seed=seed, baselines=baselines, rivals=made.baselines
    )


def evaluate_again(
    run: ApplicationRun,
    *,
    shots: int | None = None,
    tasks: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    baselines: bool = True,
) -> tuple[ApplicationRecipe, Evaluation]:
    """Evaluate the trained learner of ``run`` again, also with other shots, tasks or seed.

    Raises ValueError where the data are no longer those on which the run was tested.
    """
    learner, _ = run.learner()
    keep_files(run)
    shots = run.recipe.shots if shots is None else shots
    parts = prepare(replace(run.recipe, device=device, shots=shots))
    learner.to(device_of(parts.made.learner))
    found = evaluate_parts(
        parts.recipe, parts.made, learner, tasks=tasks, seed=seed, baselines=baselines
    )
    return parts.recipe, found


def report_again(run: ApplicationRun, path: Path | None = None) -> Path:
    """Write the report of ``run`` from its files, to ``path`` or in its folder.

    Nothing is trained or evaluated. The pictures of test tasks need the learner and the data: where
    the data are gone or changed, the report has none, with a UserWarning.

    Raises FileNotFoundError for a run that has not been evaluated.
    """
    if not (run.path / "evaluation.json").is_file():
        raise FileNotFoundError(
            f"{run.path}: has no result yet. Continue it with `quickstudy run --resume {run.path}`."
        )
    made: Prepared | None = None
    learner: Learner | None = None
    try:
        learner, _ = run.learner()
        keep_files(run)
        made = prepare(replace(run.recipe, device="cpu")).made
    except (OSError, ValueError) as error:
        warnings.warn(f"report: has no pictures of test tasks, because {error}", stacklevel=2)
    return write_report(run, run.evaluation(), made, learner, path)
