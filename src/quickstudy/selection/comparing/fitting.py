"""Training the learners of a comparison, each from the same seeds on the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.validation import Validation
from quickstudy.selection.comparing.budget import (
    VALIDATION_TASKS,
    VALIDATIONS,
    Minutes,
    Pace,
    seconds_per_step,
    seconds_per_task,
)
from quickstudy.selection.comparing.comparison import LEARNER
from quickstudy.selection.comparing.contenders import Contender, OnStep, Stopped, Trained
from quickstudy.selection.comparing.display import Display
from quickstudy.selection.comparing.stored import Folder
from quickstudy.selection.making import card_of, made
from quickstudy.training.fit import fit
from quickstudy.training.optimisers import OptimiserMaker, adam, sgd
from quickstudy.training.schedules import cosine


@dataclass(frozen=True)
class Training:
    """How one learner is trained and tested."""

    name: str
    make: Callable[[], Learner]
    train_source: TaskSource
    test: TaskSource
    validation: TaskSource | None
    tasks_per_step: int
    folder: Folder | None
    over_shots: Mapping[int, TaskSource] | None

    def contender(self, pace: Pace) -> Contender:
        """The learner, to be trained for so many steps."""
        learner = made(self.make, 0)
        card = card_of(learner)
        title = self.name if card is None or self.name != card.name else card.title
        return Contender(
            self.name, title, LEARNER, lambda seed, on_step: self.trained(seed, pace, on_step)
        )

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return any(parameter.requires_grad for parameter in made(self.make, 0).parameters())

    def trained(self, seed: int, pace: Pace, on_step: OnStep) -> Trained:
        """Train from ``seed``, or go on where that was begun."""
        steps = pace.steps
        learner = made(self.make, seed)
        shots = {n: (source, None) for n, source in (self.over_shots or {}).items()}
        if not steps:
            return Trained(learner, self.test, over_shots=shots)
        training = self._fit(
            learner, seed, pace, None if self.folder is None else self.folder.run(self.name, seed),
            lambda step: on_step(step.step, steps),
        )  # fmt: skip
        if not training.finished:
            raise Stopped(training.interrupted_by)
        return Trained(
            learner, self.test, seconds=training.seconds, cpu_seconds=training.cpu_seconds,
            steps=steps, over_shots=shots,
        )  # fmt: skip

    def pace(self, budget: Minutes) -> Pace:
        """The steps that fit in the budget, by the time that one takes here."""
        learner = made(self.make, 0)
        a_step = seconds_per_step(
            lambda on_step: self._fit(learner, 0, Pace(1_000_000, False), None, on_step)
        )
        a_task = None if self.validation is None else seconds_per_task(learner, self.validation)
        return budget.pace(a_step, a_task)

    def _fit(
        self, learner: Learner, seed: int, pace: Pace, run: Path | None,
        on_step: Callable[[Any], object],
    ) -> Any:  # fmt: skip
        steps, validation = pace.steps, None
        if self.validation is not None and pace.validated:
            every = max(1, -(-steps // VALIDATIONS))
            validation = Validation(self.validation, every=every, tasks=VALIDATION_TASKS)
        return fit(
            learner, self.train_source, steps, self.tasks_per_step,
            optimiser=optimiser_of(learner), schedule=cosine, validation=validation, seed=seed,
            run=run, resume=run is not None, progress=False, on_step=on_step,
            checkpoint_every=max(10, min(200, steps // 10)),
        )  # fmt: skip


def optimiser_of(learner: Learner) -> OptimiserMaker:
    """The optimiser and rate of the learner's card; Adam at 1e-3 for one of the user's."""
    card = card_of(learner)
    if card is None:
        return adam()
    return {"adam": adam, "sgd": sgd}[card.training.optimiser](card.training.rate)


def paces_of(
    budget: int | Minutes, trainings: Mapping[str, Training], folder: Folder | None,
    display: Display,
) -> dict[str, Pace]:  # fmt: skip
    """Steps of each learner: as given, or measured once and kept in the folder."""
    if not isinstance(budget, Minutes):
        return {name: Pace(budget if each.trains else 0) for name, each in trainings.items()}
    kept = {} if folder is None else folder.kept_paces()
    for name, each in trainings.items():
        if name in kept:
            continue
        display.begin(f"{name}: measuring the time of a step")
        kept[name] = each.pace(budget) if each.trains else Pace(0)
        if folder is not None:
            folder.keep_paces(kept)
    return kept
