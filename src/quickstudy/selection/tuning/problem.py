"""What the trials of a tuning share: how a learner is made, trained, scored and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quickstudy.base.errors import first_line
from quickstudy.compute.plan import Compute
from quickstudy.core import Learner, Score, TaskSource
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.kinds import Key
from quickstudy.evaluation.result import Result, row_to_json
from quickstudy.evaluation.validation import Validation
from quickstudy.files.registry import describe
from quickstudy.learners.cards import Space
from quickstudy.selection.tuning import space as spaces
from quickstudy.selection.tuning.trial import Objective, Trial, seed_of
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.numbering import Stream, draw, fingerprint
from quickstudy.training.fit import fit
from quickstudy.training.log import Step
from quickstudy.training.optimisers import OptimiserMaker, adam
from quickstudy.training.schedules import Schedule, constant

TASKS = 300
"""New validation tasks on which the best settings are compared with the usual ones."""


@dataclass(frozen=True)
class TuningProblem:
    """What all trials share.

    ``make``   settings and seed -> a new learner, on its device.
    ``tasks``  on which trials that lead are compared with the first.

    The others are those of :func:`quickstudy.tune`.
    """

    make: Callable[[Mapping[str, Any], int], Learner]
    train: TaskSource
    validation: Validation
    steps: int
    tasks_per_step: int
    rate: float
    optimiser: Callable[[float], OptimiserMaker] = adam
    schedule: Schedule = constant
    clip: float | None = None
    compute: Compute = field(default_factory=Compute)
    tasks: int = TASKS
    seed: int = 0
    progress: bool = True

    @property
    def new_tasks(self) -> int | None:
        """The number of new tasks; None for the given tasks of a fixed source, which has no new."""
        return None if isinstance(self.validation.source, FixedTasks) else self.tasks


def objective_of(problem: TuningProblem, key: Key) -> Objective:
    """Train and validate with the trial's settings; those that lead are scored on new tasks."""

    def objective(trial: Trial) -> tuple[float, Any]:
        learner = problem.make(trial.settings, trial.seed)
        score = _trained(problem, learner, trial, key)
        leads = trial.place == 0 or trial.leads(score)
        return score, row_to_json(judge(problem, learner, key)) if leads else None

    return objective


def _trained(problem: TuningProblem, learner: Learner, trial: Trial, key: Key) -> float:
    """Train ``learner`` in place; its best validation."""
    validation = problem.validation
    if not problem.steps:
        score = evaluate(
            learner, validation.source, validation.tasks, seed=validation.seed or 0,
            stream=Stream.VALIDATION, baselines=False,
        ).row(*key).mean  # fmt: skip
        trial.report(score)
        return score
    best = _Best()

    def on_step(step: Step) -> None:
        if step.validation is not None:
            trial.report(best.with_(step.validation))

    rate = trial.settings.get(spaces.RATE, problem.rate)
    training = fit(
        learner, problem.train, problem.steps, problem.tasks_per_step,
        optimiser=problem.optimiser(rate), schedule=problem.schedule, clip=problem.clip,
        validation=validation, seed=trial.seed, compute=problem.compute, on_step=on_step,
        progress=problem.progress,
    )  # fmt: skip
    if training.best_score is None:
        raise ValueError("no validation had a score")
    return training.best_score


@dataclass
class _Best:
    """The best of the validations so far."""

    score: float = math.nan

    def with_(self, result: Result) -> float:
        new = result.mean
        better = new > self.score if result.higher_is_better else new < self.score
        if math.isnan(self.score) or better:
            self.score = new
        return self.score


def judge(problem: TuningProblem, learner: Learner, key: Key) -> Result:
    """The result of ``learner`` on validation tasks by which no trial is chosen."""
    evaluation = evaluate(
        learner, problem.validation.source, problem.new_tasks,
        seed=seed_of(problem.validation.seed or 0, 0, "new tasks"), stream=Stream.VALIDATION,
        baselines=False,
    )  # fmt: skip
    return evaluation.row(*key)


def score_of(validation: Validation, key: Key) -> Score:
    """The score that decides, of the first validation task that has it."""
    name, score = key
    for index in range(validation.tasks):
        spec = draw(validation.source, validation.seed or 0, index, Stream.VALIDATION).spec
        for each in spec.answer.scores if spec.name == name else ():
            if each.name == score:
                return each
    raise ValueError(f"tune: no validation task has the score {score}.")


def facts(problem: TuningProblem, space: Mapping[str, Space], base: Learner) -> dict[str, Any]:
    """What the scores of trials depend on, as plain JSON."""
    try:
        learner = describe(base)
    except ValueError as error:  # code of the user's own
        learner = f"{type(base).__name__} ({first_line(error)})"
    numbers = range(2)
    return {
        "steps": problem.steps,
        "tasks_per_step": problem.tasks_per_step,
        "rate": problem.rate,
        "optimiser": getattr(problem.optimiser, "__qualname__", type(problem.optimiser).__name__),
        "schedule": getattr(problem.schedule, "__qualname__", type(problem.schedule).__name__),
        "clip": problem.clip,
        "space": {name: spaces.space_in_words(values) for name, values in space.items()},
        "usual learner": learner,
        "seed": problem.seed,
        "new tasks": problem.new_tasks,
        "validation": problem.validation.identity(problem.seed),
        "first training tasks": fingerprint(
            draw(problem.train, problem.seed, i, Stream.TRAINING) for i in numbers
        ),
    }
