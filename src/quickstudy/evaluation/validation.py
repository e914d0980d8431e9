"""Validation during training: on which tasks, how often, and which result decides."""

from __future__ import annotations

from dataclasses import dataclass

from quickstudy.answers.checks import check_count
from quickstudy.base.shown import shown
from quickstudy.core import Learner, TaskSource, check_answer
from quickstudy.evaluation.kinds import Key, Kinds
from quickstudy.tasks.fixed import number_of_tasks
from quickstudy.tasks.numbering import Stream, draw, fingerprint, repeatable_tasks

_FIRST_TASKS = 8
"""Number of tasks by which a resumed run recognises its validation tasks."""

_TASKS = 200
"""Number of validation tasks by default."""


@dataclass(frozen=True)
class Validation:
    """Validation during training: every ``every`` optimiser steps, on the same ``tasks`` tasks.

    ``tasks``     200 by default; for :func:`quickstudy.tasks.fixed`, all of them.
    ``patience``  number of validations without a new best after which training stops; None: never.
    ``select``    the result that decides, where tasks of several names or kinds give several: a
                  score's name, or (task's name, score's name). By default the answer's first score.
    ``seed``      of the validation tasks; by default that of training. Trainings with several seeds
                  that are to be compared need the same one.

    Raises ValueError for values out of range.
    """

    source: TaskSource
    every: int = 500
    tasks: int = None  # type: ignore[assignment]  # set below
    patience: int | None = None
    select: str | Key | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_count("Validation", "every", self.every, 1)
        tasks = number_of_tasks("Validation", self.source, self.tasks, _TASKS)
        check_count("Validation", "tasks", tasks, 2)
        object.__setattr__(self, "tasks", tasks)
        if self.patience is not None:
            check_count("Validation", "patience", self.patience, 1)
        if self.seed is not None:
            check_count("Validation", "seed", self.seed, 0)
        match self.select:
            case None | str() | tuple((str(), str())):
                pass
            case other:
                raise ValueError(
                    "Validation: select must be a score's name, or (task's name, score's name); "
                    f"found {shown(other)}. Leave it out for the answer's first score."
                )

    def seed_beside(self, seed: int) -> int:
        """The seed of the validation tasks in a training with this ``seed``."""
        return seed if self.seed is None else self.seed

    def deciding_key(self, learner: Learner, seed: int) -> Key:
        """The key of the result that selects weights in a run with this seed, before it starts.

        Raises ValueError for a source with a memory, for answers that ``learner`` does not support,
        for answers that would share a result but do not join, and where ``select`` does not select
        exactly one result.
        """
        kinds, seed = Kinds(), self.seed_beside(seed)
        for task in repeatable_tasks(self.source, seed, self.tasks, Stream.VALIDATION):
            check_answer(learner, task.spec.answer)
            kinds.add(task.spec)
        select = self.select
        if select is None:
            candidates = sorted(kinds.first)
        elif isinstance(select, str):
            candidates = [key for key in kinds.answers if key[1] == select]
        else:
            candidates = [key for key in kinds.answers if key == select]
        if len(candidates) == 1:
            return candidates[0]
        raise ValueError(
            "validation: exactly one result must decide which weights are kept; found "
            f"{len(candidates)} for select={shown(select)} among {kinds.listed}. Give "
            "select=(task's name, score's name)."
        )

    def identity(self, seed: int) -> str:
        """The settings that a resumed run must share with the run that it continues."""
        numbers, seed = range(min(self.tasks, _FIRST_TASKS)), self.seed_beside(seed)
        first = fingerprint(draw(self.source, seed, i, Stream.VALIDATION) for i in numbers)
        return (
            f"every {self.every}, {self.tasks} tasks, patience {self.patience}, "
            f"select {self.select}, {first}"
        )
