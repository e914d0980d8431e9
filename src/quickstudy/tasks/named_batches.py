"""Drawing tasks from named ones: a name, then rows of its task."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from quickstudy.base.words import count, first_few
from quickstudy.core import Task, TaskSpec
from quickstudy.tasks.counts import distinct
from quickstudy.tasks.named_rows import NamedRows


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class NamedBatches:
    """The task source that :meth:`quickstudy.tasks.NamedTasks.batches` makes.

    ``shares``   how often each task is drawn; their sum is 1.
    ``queries``, ``supports``  rows of each part of a drawn task; fewer where it has fewer.
    """

    rows: NamedRows = field(repr=False)
    specs: Mapping[str, TaskSpec] = field(repr=False)
    shares: Mapping[str, float] = field(repr=False)
    queries: int
    supports: int

    def __call__(self, generator: torch.Generator) -> Task:
        """Rows of a random task: disjoint support and query."""
        chosen = float(torch.rand((), generator=generator, dtype=torch.float64))
        ends = list(accumulate(self.shares.values()))
        place = min(bisect_right(ends, chosen), len(ends) - 1)  # sums of shares may round below 1
        name = tuple(self.shares)[place]
        supports, queries = self.sizes(name)
        drawn = distinct(self.rows.count(name), supports + queries, generator)
        support, query = drawn.split([supports, queries])
        return Task(self.rows.take(name, support), self.rows.take(name, query), self.specs[name])

    def sizes(self, name: str) -> tuple[int, int]:
        """The number of support and query rows of task ``name``.

        A task with too few rows for both shares them in proportion, with at least 1 of each.
        """
        rows, wanted = self.rows.count(name), self.supports + self.queries
        if rows >= wanted:
            return self.supports, self.queries
        supports = min(max(round(rows * self.supports / wanted), 1), rows - 1)
        return supports, rows - supports


def named_batches(
    rows: NamedRows,
    specs: Mapping[str, TaskSpec],
    queries: int,
    supports: int | None,
    temperature: float,
) -> NamedBatches:
    """See :meth:`quickstudy.tasks.NamedTasks.batches`."""
    supports = queries if supports is None else supports
    if min(queries, supports) < 1:
        raise ValueError(
            f"batches: rows and support must be at least 1; found rows={queries}, "
            f"support={supports}. Leave support out for as many as rows."
        )
    if not temperature > 0:  # also NaN
        raise ValueError(
            f"batches: temperature must be positive; found {temperature}. Give 1 to draw tasks in "
            "proportion to their rows, math.inf to draw all equally often."
        )
    single = [name for name in rows if rows.count(name) < 2]
    if single:
        raise ValueError(
            "batches: a task needs 2 rows, one for support and one for query; found 1 in "
            f"{count(len(single), 'task')}: {first_few(single)}. Add rows, or leave them out."
        )
    return NamedBatches(rows, specs, shares_of(rows, temperature), queries, supports)


def shares_of(rows: NamedRows, temperature: float) -> dict[str, float]:
    """p_t ∝ n_t^(1/T): how often the task of each name is drawn."""
    most = max(rows.count(name) for name in rows)
    parts = {name: math.pow(rows.count(name) / most, 1 / temperature) for name in rows}
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}
