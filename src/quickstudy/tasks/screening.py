"""Screening tasks: which rows have one of many labels, such as being active in an assay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.specs import ranking
from quickstudy.base.trees import leaves, map_tree
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.fixed import FixedTasks, fixed
from quickstudy.tasks.numbering import generator as seeded


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Screening:
    """A source of tasks, each of which is one column of a table of labels, drawn at random.

    The support set has ``shots`` rows of the column's known ones, with as large a share of rows of
    class 1 as among these, but at least one row of either class (as FS-Mol does). Queries are
    further rows, of the same share.

    ``inputs``   (n, ...): a tensor, or a tree of them; the tasks share it.
    ``labels``   (n, columns): 1 yes, 0 no, NaN or -1 unknown.
    ``columns``  their names.
    ``shots``    rows of a support set, of both classes together.
    ``queries``  most query rows; None for all others.
    ``share``    of rows of class 1 in a support set, such as 0.5; None for that of the column.

    Raises ValueError where no column is left that has rows of both classes for support and query,
    for other numbers of rows or columns, and for numbers out of range. See :func:`usable` for which
    columns have enough.

    Reference: Stanley et al. (2021), FS-Mol: A Few-Shot Learning Dataset of Molecules.

    >>> import torch
    >>> import quickstudy as qs
    >>> labels = torch.tensor([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 20)
    >>> source = qs.tasks.Screening(torch.rand(30, 4), labels, ["toxic", "soluble"], shots=9)
    >>> source(torch.Generator().manual_seed(0)).support.targets.tolist()
    [1, 1, 1, 0, 0, 0, 0, 0, 0]
    """

    inputs: Any
    labels: Tensor
    columns: Sequence[str]
    shots: int = 16
    queries: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        rows = {len(leaf) for leaf in leaves(self.inputs)}
        if self.labels.ndim != 2 or rows != {len(self.labels)}:
            raise ValueError(
                "Screening: inputs and labels must have the same rows, and labels a column for "
                f"each name; found {sorted(rows)} rows of inputs, labels of shape "
                f"{tuple(self.labels.shape)}."
            )
        if len(self.columns) != self.labels.shape[1]:
            raise ValueError(
                f"Screening: {count(len(self.columns), 'name')} for "
                f"{count(self.labels.shape[1], 'column')}. Give one name for each."
            )
        if self.shots < 2 or (self.queries is not None and self.queries < 2):
            raise ValueError(
                "Screening: needs 2 shots and 2 queries or more, a row of each class; found "
                f"shots={self.shots}, queries={self.queries}."
            )
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(
                f"Screening: share must be between 0 and 1; found {self.share}. Leave it out for "
                "that of each column."
            )
        bad = [n for n, few in zip(self.columns, self._too_few(), strict=True) if few]
        if bad:
            raise ValueError(
                f"Screening: a task of {self.shots} shots needs rows of both classes in support "
                f"and query; {count(len(bad), 'column')} of {len(self.columns)} "
                f"{'has' if len(bad) == 1 else 'have'} too few: {first_few(bad)}. Leave them out "
                "(qs.tasks.usable), or ask for fewer shots."
            )

    @property
    def spec(self) -> TaskSpec:
        """Of every task."""
        return ranking()

    def __call__(self, generator: torch.Generator) -> Task:
        """The task of a random column."""
        column = int(torch.randint(len(self.columns), (), generator=generator))
        return self.task(column, generator)

    def task(self, column: int, generator: torch.Generator) -> Task:
        """A task of this column, with rows chosen at random."""
        labels = self.labels[:, column]
        active, other = (_shuffled((labels == v).nonzero()[:, 0], generator) for v in (1, 0))
        yes = _of_class(self.shots, len(active), len(other), self.share)
        no = self.shots - yes
        support = torch.cat([active[:yes], other[:no]])
        active, other = active[yes:], other[no:]
        if self.queries is not None and self.queries < len(active) + len(other):
            some = _of_class(self.queries, len(active), len(other), None)
            active, other = active[:some], other[: self.queries - some]
        return Task(self._rows(support, column), self._rows(torch.cat([active, other]), column),
                    self.spec)  # fmt: skip

    def numbered(self, column: int, draw: int, seed: int = 0) -> Task:
        """Task number ``draw`` of a column, the same for the same ``seed``."""
        return self.task(column, seeded(seed + 1_000_003 * draw + column))

    def of_all(self, draws: int = 1, seed: int = 0) -> FixedTasks:
        """``draws`` tasks of every column, column by column: fixed tasks, all in memory at once."""
        return fixed(
            self.numbered(column, draw, seed)
            for column in range(len(self.columns))
            for draw in range(draws)
        )

    def _rows(self, chosen: Tensor, column: int) -> Examples:
        weights = torch.ones(len(chosen))
        targets = self.labels[chosen, column].long()
        inputs = map_tree(lambda leaf: leaf[chosen], self.inputs)
        return Examples(inputs, targets, weights, one_place(weights))

    def _too_few(self) -> list[bool]:
        return [not enough for enough in usable(self.labels, self.shots, 1, self.share)]


def usable(labels: Tensor, shots: int, queries: int = 1, share: float | None = None) -> list[bool]:
    """Which columns of ``labels`` (n, columns) have rows enough for tasks of ``shots``.

    Enough are those of the support set and, of each class, ``queries`` more.
    """
    found = []
    for column in labels.unbind(1):
        active, other = int((column == 1).sum()), int((column == 0).sum())
        if min(active, other) == 0:
            found.append(False)
            continue
        yes = _of_class(shots, active, other, share)
        found.append(active >= yes + queries and other >= shots - yes + queries)
    return found


def _of_class(rows: int, active: int, other: int, share: float | None) -> int:
    """How many of ``rows`` are of class 1: their share, but at least one of either class."""
    share = active / (active + other) if share is None else share
    return min(max(round(rows * share), 1), rows - 1)


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]
