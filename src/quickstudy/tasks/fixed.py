"""Given tasks as a source: published test sets, recorded sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quickstudy.core import Task


@dataclass(frozen=True)
class FixedTasks:
    """The task source that :func:`fixed` makes. Numbered tasks come in the order given."""

    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    def at(self, index: int) -> Task:
        """Task ``index``; from the first again after the last."""
        return self.tasks[index % len(self.tasks)]

    def __call__(self, generator: torch.Generator) -> Task:
        """One of them at random."""
        return self.tasks[int(torch.randint(len(self.tasks), (), generator=generator))]


def fixed(tasks: Sequence[Task]) -> FixedTasks:
    """A source of the given tasks, each of which is drawn under its own number.

    ``evaluate(learner, fixed(tasks), tasks=len(tasks))`` scores each once, whatever the seed.

    Raises ValueError for an empty sequence.
    """
    if not tasks:
        raise ValueError("fixed: needs at least 1 task; found none. Give a list of tasks.")
    return FixedTasks(tuple(tasks))
