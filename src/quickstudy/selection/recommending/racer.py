"""A candidate in training: it can go on where it stopped, and be scored on numbered tasks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

import torch

from quickstudy.base.words import count
from quickstudy.core import Learner
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.selection.recommending.candidates import Candidate, Sources
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.numbering import Stream
from quickstudy.training.fit import fit
from quickstudy.training.schedules import Schedule, constant

TIMED_STEPS, FIRST_TASKS, TIMED_TASKS = 4, 2, 4
"""Of a trial whose weights are thrown away: training steps, and tasks that are scored, untimed
before timed ones. An evaluation has at least 2."""


@dataclass
class Racer:
    """One training of a candidate.

    ``seed``    of the initial weights and of the training tasks.
    ``folder``  of its checkpoints, one for each number of steps that it trained to: one that was
                killed takes the same way again, and trains only what is missing.
    """

    candidate: Candidate
    seed: int
    folder: Path
    schedule: Schedule = constant
    learner: Learner = field(init=False)
    steps: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.learner = self.candidate.made(self.seed)

    def train_to(self, steps: int) -> None:
        """Go on until ``steps`` steps are taken in all; nothing for a candidate without training.

        Raises KeyboardInterrupt where Ctrl-C or another signal ended training, and as ``fit``.
        """
        if steps <= self.steps or self.candidate.sources.train is None:
            return
        run = self.folder / str(steps)
        if self.steps and not run.exists():
            copied = self.folder / f"{steps}-copied"  # moved in one step, so that it is complete
            copytree(self.folder / str(self.steps), copied, dirs_exist_ok=True)
            copied.replace(run)
        training = fit(
            self.learner, self.candidate.sources.train, steps, self.candidate.tasks_per_step,
            optimiser=self.candidate.optimiser, objective=self.candidate.objective,
            schedule=self.schedule, seed=self.seed, run=run, resume=True,
            checkpoint_every=steps, log_every=steps, progress=False,
        )  # fmt: skip
        if not training.finished:
            raise KeyboardInterrupt
        self.steps, self.seconds = steps, training.seconds

    def used(self) -> Learner:
        """The learner that adapts to new tasks."""
        return self.candidate.used(self.learner)

    def scored(self, tasks: int, seed: int, *, test: bool = False) -> Evaluation:
        """On the first ``tasks`` validation tasks of ``seed``, or on test tasks."""
        source, raw = _source(self.candidate.sources, test)
        most = len(source.tasks) if isinstance(source, FixedTasks) else tasks
        stream = Stream.TEST if test else Stream.VALIDATION
        return evaluate(
            self.used(), source, min(tasks, most), seed=seed, stream=stream, baselines=False,
            raw=raw,
        )  # fmt: skip


def _source(sources: Sources, test: bool) -> tuple[Callable, Callable | None]:  # type: ignore[type-arg]
    if not test:
        return sources.validation, sources.raw_validation
    assert sources.test is not None
    return sources.test, sources.raw_test


def one_result(evaluation: Evaluation) -> Result:
    """The first score of an evaluation; of tasks with names, the mean over names, each once.

    Raises ValueError for tasks whose scores are not the same, since their mean says nothing.
    """
    if evaluation.of_one_kind:
        return evaluation.main
    rows = [row for row in evaluation.rows if row.first]
    first = rows[0]
    if any((row.score, row.unit) != (first.score, first.unit) for row in rows):
        raise ValueError(
            "recommend: all tasks must have the same score, for a mean over them; found "
            f"{', '.join(sorted({row.score for row in rows}))}. Give the tasks of one kind: "
            "tasks.only(names)."
        )
    values = torch.tensor([row.mean for row in rows], dtype=torch.float64)
    known = values[~values.isnan()]
    return Result(
        "", f"mean {first.score} of {count(len(rows), 'task')}", first.unit,
        first.higher_is_better, False, True, tuple({"mean": value} for value in values), values,
        float(known.mean()), half_width(known),
    )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Seconds here: of making and checking a learner, of one step, of one scored task."""

    start: float
    step: float
    task: float


def measured(candidate: Candidate, seed: int, folder: Path) -> Cost:
    """What a candidate costs, by a few steps whose weights are thrown away."""
    began = time.perf_counter()
    racer = Racer(candidate, seed, folder)
    learner, moments = copy.deepcopy(racer.learner), []
    if candidate.sources.train is not None and candidate.steps:
        fit(
            learner, candidate.sources.train, TIMED_STEPS, candidate.tasks_per_step,
            optimiser=candidate.optimiser, objective=candidate.objective, seed=seed,
            progress=False, on_step=lambda _: moments.append(time.perf_counter()),
        )  # fmt: skip
    trained = time.perf_counter()
    racer.learner = learner
    racer.scored(FIRST_TASKS, seed)  # they also pay for what is made once
    warm = time.perf_counter()
    racer.scored(TIMED_TASKS, seed)
    ended = time.perf_counter()
    step = (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else 0.0
    start = max(0.0, trained - began - TIMED_STEPS * step)
    return Cost(start, step, (ended - warm) / TIMED_TASKS)
