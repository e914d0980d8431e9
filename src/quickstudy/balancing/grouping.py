"""Which drawn tasks of a step are one task, and which are absent.

A balancer sees one loss, and one row of the Jacobian, for each task: drawn tasks of one name are
averaged; drawn tasks without a name, as in meta-learning, are a task each. A drawn task none of
whose queries has a known label, and whose loss is 0, is *absent*: it counts nowhere. A row of
zeros would be a stationary task, at which MGDA, CAGrad and others rightly stop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.compute.prepare import Prepared, names_of
from quickstudy.core import Answer


@dataclass(frozen=True)
class Grouping:
    """The tasks of a step.

    ``names``    (tasks) their names, in the order in which they were drawn.
    ``members``  (tasks) the places of each task's drawn tasks in the step.
    ``drawn``    how many tasks were drawn.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    drawn: int

    def averages(self, like: Tensor) -> Tensor:
        """(tasks, drawn): the matrix that averages the drawn tasks of each task."""
        matrix = torch.zeros(len(self.names), self.drawn, dtype=like.dtype)
        for row, places in zip(matrix, self.members, strict=True):
            row[list(places)] = 1 / len(places)
        return matrix.to(like.device)

    def averaged(self, rows: Tensor) -> Tensor:
        """(drawn, p) -> (tasks, p)."""
        if self.members == tuple((place,) for place in range(self.drawn)):
            return rows
        return self.averages(rows) @ rows


def group(step: Sequence[Prepared], absent: Collection[int] = ()) -> Grouping:
    """The tasks of ``step``, without the drawn tasks at the places ``absent``."""
    drawn, members = names_of(step), dict[tuple[str, int], list[int]]()
    for place, name in enumerate(drawn):
        if place not in absent:
            members.setdefault((name, 0 if name else place), []).append(place)
    names = tuple(name for name, _ in members)
    return Grouping(names, tuple(map(tuple, members.values())), len(drawn))


def unlabelled_places(step: Sequence[Prepared]) -> list[int]:
    """The places in the step of the drawn tasks whose queries have no known element."""
    return sorted(
        prepared.places[place] for prepared in step for place in prepared.inspection.unlabelled
    )


def answers_of(step: Sequence[Prepared]) -> dict[str, Answer]:
    """The answer of the tasks of each name."""
    return {
        name: prepared.task.spec.answer for prepared in step for name in prepared.names
    }  # fmt: skip
