"""What is compared: learners and baselines, each with a function that trains it from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quickstudy.core import Learner, TaskSource
from quickstudy.selection.comparing.comparison import LEARNER

OnStep = Callable[[int, int], object]
"""Called with the step that was taken and the number of steps of a training."""


@dataclass(frozen=True)
class Trained:
    """A learner that is ready to be tested.

    ``source``       the test tasks, as it reads them.
    ``raw``, ``of``  where ``source`` gives features: the same tasks with their inputs, and the
                     learner for these inputs (see :func:`quickstudy.evaluate`).
    ``timed_on``     then the tasks on which an adaptation is timed, with inputs as they come.
    ``seconds``, ``cpu_seconds``  of training over tasks; 0 where there was none.
    ``steps``        optimiser steps.
    ``over_shots``   for other numbers of shots, ``source`` and ``raw``.
    """

    learner: Learner
    source: TaskSource
    raw: TaskSource | None = None
    of: Learner | None = None
    timed_on: TaskSource | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    over_shots: Mapping[int, tuple[TaskSource, TaskSource | None]] = field(default_factory=dict)

    @property
    def whole(self) -> Learner:
        """The learner for the inputs, with its backbone."""
        return self.of or self.learner


Train = Callable[[int, OnStep], Trained]


@dataclass(frozen=True)
class Contender:
    """A learner or a baseline before it is trained.

    ``name``, ``title``, ``kind``  as in :class:`quickstudy.selection.comparing.comparison.Entry`.
    ``train``   seed -> the trained learner. It may call the second argument after each step. It
                raises :class:`Stopped` where a signal ended training early.
    ``seeded``  whether the seed changes anything; if not, one evaluation stands for all.
    """

    name: str
    title: str
    kind: str
    train: Train
    seeded: bool = True

    @property
    def is_learner(self) -> bool:
        """Whether it is one of the learners that were asked for."""
        return self.kind == LEARNER


class Stopped(KeyboardInterrupt):
    """A signal ended the comparison; what was trained is kept, where it has a folder.

    ``signal``  its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
