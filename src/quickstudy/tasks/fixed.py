"""A source of given tasks, for example a published test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quickstudy.core import Task


@dataclass(frozen=True)
class FixedTasks:
    """The task source that :func:`fixed` makes; task number i is the i-th of ``tasks``."""

    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    def at(self, index: int) -> Task:
        """Task ``index``, modulo the number of tasks."""
        return self.tasks[index % len(self.tasks)]

    def __call__(self, generator: torch.Generator) -> Task:
        """One of them at random."""
        return self.tasks[int(torch.randint(len(self.tasks), (), generator=generator))]


def fixed(tasks: Sequence[Task]) -> FixedTasks:
    """A source of the given tasks: task number i is the i-th of them.

    ``evaluate(learner, fixed(tasks), tasks=len(tasks))`` scores each once, whatever the seed.

    Raises ValueError for an empty sequence.
    """
    if not tasks:
        raise ValueError("fixed: needs at least 1 task; found none. Give a list of tasks.")
    return FixedTasks(tuple(tasks))
