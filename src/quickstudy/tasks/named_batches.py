"""Drawing tasks from named ones: a name, then rows of its task."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.base.trees import concatenate, leaves, map_tree
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.counts import distinct
from quickstudy.tasks.examples import take
from quickstudy.tasks.named_rows import NamedRows, with_labels
from quickstudy.tasks.stacks import MAX_PADDING, Stack

MOST_COPIED = 2**28
"""Bytes of rows up to which they are copied into one table, so that stacks are drawn at once."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class NamedBatches:
    """The task source that :meth:`quickstudy.tasks.NamedTasks.batches` makes.

    ``rows``     that are drawn: those with weight and some known target.
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
        name, drawn = self._draw(generator)
        supports, _ = self.sizes(name)
        rows = self.rows.take(name, drawn)
        support = map_tree(lambda leaf: leaf[:supports], rows)
        query = map_tree(lambda leaf: leaf[supports:], rows)
        return Task(support, query, self.specs[name])

    def stacked(self, generators: Sequence[torch.Generator]) -> Stack | None:
        """The stack of the tasks of ``generators``; None where they may need several."""
        if self._table is None:
            return None
        drawn = [self._draw(generator) for generator in generators]
        names, numbers = zip(*drawn, strict=True)
        sizes = [self.sizes(name) for name in names]
        supports, queries = (max(each) for each in zip(*sizes, strict=True))
        if (supports + queries) * len(drawn) > MAX_PADDING * sum(map(sum, sizes)):
            return None
        parts = [rows.split(size) for rows, size in zip(numbers, sizes, strict=True)]
        support = self._table.stacked(names, [part for part, _ in parts], supports)
        query = self._table.stacked(names, [part for _, part in parts], queries)
        answer = self.specs[names[0]].answer
        spec = TaskSpec(answer, names[0] if len(set(names)) == 1 else "")
        return Stack(Task(support, query, spec), tuple(range(len(names))), names)

    def _draw(self, generator: torch.Generator) -> tuple[str, Tensor]:
        """The name of a random task, and the numbers of its rows: those of the support first."""
        chosen = float(torch.rand((), generator=generator, dtype=torch.float64))
        names, ends = self._names_and_ends
        name = names[min(bisect_right(ends, chosen), len(ends) - 1)]  # sums may round below 1
        return name, distinct(self.rows.count(name), sum(self.sizes(name)), generator)

    @cached_property
    def _table(self) -> _Table | None:
        """The rows of all tasks in one table, for stacks; None where they do not fit into one."""
        return _in_one_table(self.rows, self.specs)

    @cached_property
    def _names_and_ends(self) -> tuple[tuple[str, ...], list[float]]:
        """The names, and the sums of the shares up to each."""
        return tuple(self.shares), list(accumulate(self.shares.values()))

    def sizes(self, name: str) -> tuple[int, int]:
        """The number of support and query rows of task ``name``.

        A task with too few rows for both shares them in proportion, with at least 1 of each.
        """
        rows, wanted = self.rows.count(name), self.supports + self.queries
        if rows >= wanted:
            return self.supports, self.queries
        supports = min(max(round(rows * self.supports / wanted), 1), rows - 1)
        return supports, rows - supports


class _Table(NamedTuple):
    """The rows of all tasks, one task after the other, and where each begins."""

    rows: Examples
    starts: dict[str, int]

    def stacked(self, names: Sequence[str], numbers: Sequence[Tensor], most: int) -> Examples:
        """Rows (tasks, most, ...): of each task those with these numbers, and padding."""
        own = [self.starts[name] + each for name, each in zip(names, numbers, strict=True)]
        padded = [torch.cat([each, each[:1].expand(most - len(each))]) for each in own]
        rows = take(self.rows, torch.stack(padded))
        counted = torch.tensor([len(each) for each in own], device=rows.weights.device)
        padding = torch.arange(most, device=counted.device) >= counted[:, None]
        return rows._replace(weights=rows.weights.masked_fill(padding, 0.0))


def _in_one_table(rows: NamedRows, specs: Mapping[str, TaskSpec]) -> _Table | None:
    """None for tasks of several answers or shapes, and where the copy would be large."""
    shapes = {
        tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves(rows.targets[name])) for name in rows
    }
    if len({spec.answer for spec in specs.values()}) > 1 or len(shapes) > 1:
        return None
    if sum(rows.bytes_of(name) for name in rows) > MOST_COPIED:
        return None
    counts = [rows.count(name) for name in rows]
    starts = dict(zip(rows, accumulate([0, *counts[:-1]]), strict=True))
    return _Table(Examples(*concatenate(*rows.values())), starts)


def named_batches(
    rows: NamedRows,
    specs: Mapping[str, TaskSpec],
    queries: int,
    supports: int | None,
    temperature: float,
) -> NamedBatches:
    """See :meth:`quickstudy.tasks.NamedTasks.batches`."""
    supports = queries if supports is None else supports
    if min(queries, supports) < 1 or isinstance(queries + supports, float):
        raise ValueError(
            f"batches: rows and support must be whole numbers, at least 1; found rows={queries}, "
            f"support={supports}. Leave support out for as many as rows."
        )
    if not temperature > 0:  # also NaN
        raise ValueError(
            f"batches: temperature must be positive; found {temperature}. Give 1 to draw tasks in "
            "proportion to their rows, math.inf to draw all equally often."
        )
    rows = rows.select({name: with_labels(rows, specs[name]).nonzero()[:, 0] for name in rows})
    single = [name for name in rows if rows.count(name) < 2]
    if single:
        raise ValueError(
            "batches: a task needs 2 rows with known targets, one for support and one for query; "
            f"found fewer in {count(len(single), 'task')}: {first_few(single)}. Add rows, or leave "
            "them out."
        )
    return NamedBatches(rows, specs, shares_of(rows, temperature), queries, supports)


def shares_of(rows: NamedRows, temperature: float) -> dict[str, float]:
    """p_t ∝ n_t^(1/T): how often the task of each name is drawn."""
    most = max(rows.count(name) for name in rows)
    parts = {name: math.pow(rows.count(name) / most, 1 / temperature) for name in rows}
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}
