"""Few-shot episodes: classification tasks drawn from labelled rows.

Sampling is index arithmetic and one gather of rows, without a Python loop over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.base.shown import shown
from quickstudy.base.trees import map_tree, named_leaves
from quickstudy.core import Examples, Task
from quickstudy.tasks.examples import to_unit
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.stacks import map_task, tensor_to_device

Count = int | tuple[int, int]
"""A fixed number, or an inclusive range (low, high) from which each task draws a number."""


def episodes(
    split: LabelledRows,
    ways: Count,
    shots: Count,
    queries: Count = 15,
    *,
    imbalanced: bool = False,
    shuffled: bool = False,
) -> Episodes:
    """A source of few-shot classification tasks drawn from ``split``.

    ``ways``     classes per task; class id ``k`` is a different class in every task.
    ``shots``    support rows per class.
    ``queries``  query rows per class, none of them in the support set.
    A pair, for example ``ways=(5, 20)``, is an inclusive range: each task draws its own number;
    with ``imbalanced=True`` each *class* draws its own shots. Tasks of different sizes can still
    share a stack: smaller ones are padded with rows of weight 0. Rows are ordered by class, with
    ``shuffled=True`` randomly, as learners need that read rows as a sequence.

    Raises ValueError where a class has fewer than ``shots + queries`` rows, or the split fewer
    than ``ways`` classes.
    """
    bounds = {name: _bounds(name, c) for name, c in
              (("ways", ways), ("shots", shots), ("queries", queries))}  # fmt: skip
    if bounds["ways"][0] < 2:
        raise ValueError(f"episodes: a task needs at least 2 ways; found ways={ways}.")
    if bounds["ways"][1] > len(split):
        remedy = f"Ask for at most {len(split)}" if len(split) > 1 else "A task needs 2"
        raise ValueError(
            f"episodes: {bounds['ways'][1]} ways asked, but the split has {len(split)} classes. "
            f"{remedy}, or use another split."
        )
    needed = bounds["shots"][1] + bounds["queries"][1]
    smallest = int(split.counts.argmin())
    if needed > int(split.counts[smallest]):
        raise ValueError(
            f"episodes: {bounds['shots'][1]} shots + {bounds['queries'][1]} queries need {needed} "
            f"rows per class, but class {shown(split.names[smallest])} has "
            f"{int(split.counts[smallest])}. Lower shots or queries, or leave small classes out."
        )
    if imbalanced and bounds["shots"][0] == bounds["shots"][1]:
        raise ValueError(
            f"episodes: imbalanced=True needs a range of shots; found shots={shots}. "
            "Write for example shots=(1, 10)."
        )
    return Episodes(split, bounds["ways"], bounds["shots"], bounds["queries"], imbalanced, shuffled)


def _bounds(name: str, count: Count) -> tuple[int, int]:
    ends = tuple(count) if isinstance(count, Sequence) else (count, count)
    whole = all(isinstance(end, Integral) and not isinstance(end, bool) for end in ends)
    if not whole or len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
        raise ValueError(
            f"episodes: {name} must be a positive whole number or a range (low, high) of such; "
            f"found {shown(count)}."
        )
    return int(ends[0]), int(ends[1])


@dataclass(frozen=True)
class Episodes:
    """The task source that :func:`episodes` makes; counts are inclusive (low, high) ranges."""

    classes: LabelledRows
    ways: tuple[int, int]
    shots: tuple[int, int]
    queries: tuple[int, int]
    imbalanced: bool = False
    shuffled: bool = False

    def __call__(self, generator: torch.Generator) -> Task:
        """One task; the same generator state gives the same task."""
        return self._gather(self._draw_rows(generator))

    def stacked(self, generators: Sequence[torch.Generator]) -> Task | None:
        """One stack of the tasks of ``generators``, whose rows are gathered in one operation.

        None where their sizes differ, since they may then need several stacks.
        """
        tasks = [self._draw_rows(generator) for generator in generators]
        if len({rows.sizes for rows in tasks}) > 1:
            return None
        n, places = len(tasks[0].support_targets), torch.stack([rows.places for rows in tasks])
        combined = _Rows(
            tasks[0].ways,
            torch.cat([places[:, :n].flatten(), places[:, n:].flatten()]),
            torch.cat([rows.support_targets for rows in tasks]),
            torch.cat([rows.query_targets for rows in tasks]),
        )

        def cut(leaf: Tensor) -> Tensor:
            return leaf.view(len(tasks), -1, *leaf.shape[1:])

        return map_task(cut, self._gather(combined))

    def _draw_rows(self, generator: torch.Generator) -> _Rows:
        _, rows, shots = self._draw(generator)
        ways, per_class = rows.shape
        if self.imbalanced:
            class_shots = _draw_counts(self.shots, ways, generator)
            position = torch.arange(per_class).expand(ways, -1)
            in_support = position < class_shots[:, None]
            in_query = position >= shots
            places = torch.cat([rows[in_support], rows[in_query]])
            way = torch.arange(ways)[:, None].expand(-1, per_class)
            support_targets, query_targets = way[in_support], way[in_query]
        else:
            order, support_targets, query_targets = _layout(ways, shots, per_class - shots)
            places = rows.flatten().index_select(0, order)
        if self.shuffled:
            n = len(support_targets)
            order = torch.randperm(n, generator=generator)
            query_order = torch.randperm(len(places) - n, generator=generator)
            places = torch.cat([places[:n][order], places[n:][query_order]])
            support_targets, query_targets = support_targets[order], query_targets[query_order]
        return _Rows(ways, places, support_targets, query_targets)

    def _gather(self, rows: _Rows) -> Task:
        n = len(rows.support_targets)

        def gather(leaf: Tensor) -> Tensor:
            picked = leaf.index_select(0, tensor_to_device(rows.places, leaf.device))
            return to_unit(picked) if picked.dtype == torch.uint8 else picked

        inputs = map_tree(gather, self.classes.inputs)
        device = next(leaf.device for _, leaf in named_leaves(inputs))
        weights = torch.ones(len(rows.places), device=device)
        groups = torch.zeros(len(rows.places), dtype=torch.long, device=device)
        return Task(
            Examples(map_tree(lambda leaf: leaf[:n], inputs),
                     tensor_to_device(rows.support_targets, device), weights[:n], groups[:n]),
            Examples(map_tree(lambda leaf: leaf[n:], inputs),
                     tensor_to_device(rows.query_targets, device), weights[n:], groups[n:]),
            classification(rows.ways),
        )  # fmt: skip

    def names(self, generator: torch.Generator) -> list[str]:
        """The class names of the task that this generator state gives, by class id."""
        return [self.classes.names[i] for i in self._draw(generator)[0].tolist()]

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """Class ids (ways,), row ids (ways, shots + queries), and the number of shots."""
        # Imbalanced tasks draw the maximum of shots for every class, then use some of them.
        shot_range = (self.shots[1], self.shots[1]) if self.imbalanced else self.shots
        ways, shots, queries = (
            _draw_count(bounds, generator) for bounds in (self.ways, shot_range, self.queries)
        )
        chosen = _distinct(len(self.classes), ways, generator)
        # The smallest keys of a row of random keys are a sample without replacement.
        if self._rows_per_class:
            keys = torch.rand(ways, self._rows_per_class, generator=generator)
        else:
            counts = self.classes.counts[chosen]
            largest = int(counts.max())
            keys = torch.rand(ways, largest, generator=generator)
            keys.masked_fill_(torch.arange(largest) >= counts[:, None], 2.0)
        picked = keys.topk(shots + queries, dim=1, largest=False).indices
        return chosen, self.classes.starts[chosen][:, None] + picked, shots

    @cached_property
    def _rows_per_class(self) -> int:
        """The number of rows per class where all classes have as many; else 0."""
        least, most = self.classes.counts.aminmax()
        return int(most) if least == most else 0


class _Rows(NamedTuple):
    """The row ids of a task, support first, and each row's class id."""

    ways: int
    places: Tensor
    support_targets: Tensor
    query_targets: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        """Equal for tasks that can be stacked without padding."""
        return self.ways, len(self.support_targets), len(self.query_targets)


def _draw_count(bounds: tuple[int, int], generator: torch.Generator) -> int:
    low, high = bounds
    return low if low == high else int(torch.randint(low, high + 1, (), generator=generator))


def _draw_counts(bounds: tuple[int, int], n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(bounds[0], bounds[1] + 1, (n,), generator=generator)


@lru_cache(maxsize=64)
def _layout(ways: int, shots: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """A balanced task's order of rows, support first, and the targets of support and query.

    The tensors are cached and shared between tasks: do not modify them.
    """
    way = torch.arange(ways)
    position = torch.arange(ways * (shots + queries)).view(ways, -1)
    order = torch.cat([position[:, :shots].flatten(), position[:, shots:].flatten()])
    return order, way.repeat_interleave(shots), way.repeat_interleave(queries)


def _distinct(n: int, k: int, generator: torch.Generator) -> Tensor:
    """``k`` distinct numbers below ``n``, uniform among all ordered choices."""
    # For small k repetitions are rare, and redrawing is much cheaper than a permutation of all n.
    while k * k <= n:
        drawn = torch.randint(n, (k,), generator=generator)
        if len(set(drawn.tolist())) == k:
            return drawn
    return torch.randperm(n, generator=generator)[:k]
