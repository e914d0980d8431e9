"""Few-shot episodes: classification tasks drawn from labelled rows.

Sampling is index arithmetic and one gather of rows, without a Python loop over images.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.base.door import to_unit
from quickstudy.base.shown import shown
from quickstudy.base.trees import map_tree, named_leaves
from quickstudy.base.words import count
from quickstudy.core import Examples, Task
from quickstudy.tasks.augmentation import Augment, Pair, of_support_and_query
from quickstudy.tasks.counts import Count, bounds_of, distinct, draw_count, draw_counts
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.stacks import map_task, tensor_to_device


def episodes(
    split: LabelledRows,
    ways: Count,
    shots: Count,
    queries: Count = 15,
    *,
    imbalanced: bool = False,
    imbalanced_queries: bool = False,
    shuffled: bool = False,
    within: Sequence[Hashable] | None = None,
    augment: Augment | None = None,
) -> Episodes:
    """A source of few-shot classification tasks drawn from ``split``.

    ``ways``     classes per task; class id ``k`` is a different class in every task.
    ``shots``    support rows per class.
    ``queries``  query rows per class, none of them in the support set.
    A pair, for example ``ways=(5, 20)``, is an inclusive range: each task draws its own number;
    with ``imbalanced=True`` each *class* draws its own shots, and with ``imbalanced_queries=True``
    its own queries. Losses and scores are means over query rows, so a class with more of them
    counts more. Tasks of different sizes can still share a stack: smaller ones are padded with rows
    of weight 0. Rows are ordered by class, with ``shuffled=True`` randomly, as learners need that
    read rows as a sequence.

    ``within``   one label per class of ``split``, such as ``split.superclasses``: all classes of a
                 task then have the same label, for example characters of one alphabet, which are
                 harder to tell apart. Each label is drawn in proportion to its number of classes.
    ``augment``  random changes of the images, for training: names such as "crop+flip+colour"
                 (:mod:`quickstudy.tasks.augmentation`), or a function (images, generator) ->
                 images. Support and query rows are both augmented; a pair (support, query) gives
                 each its own, or None. The classes and rows that are drawn stay the same.

    Raises ValueError where a class has fewer than ``shots + queries`` rows, or the split, or every
    label of ``within``, fewer than ``ways`` classes. Warns of labels with fewer than ``ways``
    classes: their classes are in no task. Raises ValueError for augmentations that cannot be used
    on the rows.
    """
    bounds = {name: bounds_of(name, c) for name, c in
              (("ways", ways), ("shots", shots), ("queries", queries))}  # fmt: skip
    if bounds["ways"][0] < 2:
        raise ValueError(f"episodes: a task needs at least 2 ways; found ways={ways}.")
    if bounds["ways"][1] > len(split):
        remedy = f"Ask for at most {len(split)}" if len(split) > 1 else "A task needs 2"
        raise ValueError(
            f"episodes: {bounds['ways'][1]} ways asked, but the split has "
            f"{count(len(split), 'class', 'classes')}. "
            f"{remedy}, or use another split."
        )
    needed = bounds["shots"][1] + bounds["queries"][1]
    smallest = int(split.counts.argmin())
    if needed > int(split.counts[smallest]):
        raise ValueError(
            f"episodes: {count(bounds['shots'][1], 'shot')} + "
            f"{count(bounds['queries'][1], 'query', 'queries')} need {needed} "
            f"rows per class, but class {shown(split.names[smallest])} has "
            f"{int(split.counts[smallest])}. Lower shots or queries, or leave small classes out."
        )
    for name, asked, what in (
        ("imbalanced", imbalanced, "shots"), ("imbalanced_queries", imbalanced_queries, "queries")
    ):  # fmt: skip
        if asked and bounds[what][0] == bounds[what][1]:
            raise ValueError(
                f"episodes: {name}=True needs a range of {what}; found {what}={bounds[what][0]}. "
                f"Write for example {what}=(1, 10)."
            )
    groups = () if within is None else _groups(split, within, bounds["ways"])
    pair = of_support_and_query(augment, map_tree(lambda leaf: _to_float(leaf[:2]), split.inputs))
    return Episodes(
        split, bounds["ways"], bounds["shots"], bounds["queries"], imbalanced, shuffled, groups,
        imbalanced_queries, pair,
    )  # fmt: skip


def _groups(
    split: LabelledRows, within: Sequence[Hashable], ways: tuple[int, int]
) -> tuple[tuple[int, ...], ...]:
    """The classes of each label that has enough of them for a task."""
    if isinstance(within, str) or len(within) != len(split):
        found = repr(within) if isinstance(within, str) else len(within)
        raise ValueError(
            f"episodes: within needs one label for each of the {len(split)} classes of the split; "
            f"found {found}. Give for example split.superclasses."
        )
    members: dict[Hashable, list[int]] = {}
    for place, label in enumerate(within):
        members.setdefault(label, []).append(place)
    largest = max(map(len, members.values()))
    if ways[1] > largest:
        raise ValueError(
            f"episodes: {ways[1]} ways asked within one label, but the largest has {largest} "
            "classes. Lower ways, or leave within out."
        )
    small = [label for label, places in members.items() if len(places) < ways[0]]
    if small:
        warnings.warn(
            f"episodes: {len(small)} of {len(members)} labels have fewer than {ways[0]} classes, "
            f"so their classes are in no task: {', '.join(map(str, small[:5]))}"
            f"{', …' if len(small) > 5 else ''}. Lower ways to use them.",
            stacklevel=3,
        )
    return tuple(tuple(m) for m in members.values() if len(m) >= ways[0])


@dataclass(frozen=True)
class Episodes:
    """The task source that :func:`episodes` makes; counts are inclusive (low, high) ranges.

    ``groups``   the classes of a task all come from one of these; empty for no such limit.
    ``augment``  of support and of query rows.
    """

    classes: LabelledRows
    ways: tuple[int, int]
    shots: tuple[int, int]
    queries: tuple[int, int]
    imbalanced: bool = False
    shuffled: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    imbalanced_queries: bool = False
    augment: Pair = (None, None)

    def __call__(self, generator: torch.Generator) -> Task:
        """One task; the same generator state gives the same task."""
        task = self._gather(self._draw_rows(generator))
        support, query = (
            rows if augment is None else rows._replace(inputs=augment(rows.inputs, generator))
            for rows, augment in zip((task.support, task.query), self.augment, strict=True)
        )
        return Task(support, query, task.spec)

    def stacked(self, generators: Sequence[torch.Generator]) -> Task | None:
        """One stack of the tasks of ``generators``, whose rows are gathered in one operation.

        None where their sizes differ, since they may then need several stacks, and where rows are
        augmented, task by task.
        """
        if self.augment != (None, None):
            return None
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
        if self.imbalanced or self.imbalanced_queries:
            # Of the rows that every class has, each uses some.
            class_shots, class_queries = torch.tensor(shots), torch.tensor(per_class - shots)
            if self.imbalanced:
                class_shots = draw_counts(self.shots, ways, generator)[:, None]
            if self.imbalanced_queries:
                class_queries = draw_counts(self.queries, ways, generator)[:, None]
            position = torch.arange(per_class).expand(ways, -1)
            in_support = position < class_shots
            in_query = (position >= shots) & (position < shots + class_queries)
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
            return _to_float(picked)

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
        # Imbalanced tasks draw the maximum of rows for every class, then use some of them.
        ways = draw_count(self.ways, generator)
        shots = self.shots[1] if self.imbalanced else draw_count(self.shots, generator)
        queries = (
            self.queries[1] if self.imbalanced_queries else draw_count(self.queries, generator)
        )
        chosen = self._choose_classes(ways, generator)
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

    def _choose_classes(self, ways: int, generator: torch.Generator) -> Tensor:
        """Class ids (ways,), distinct."""
        if not self.groups:
            return distinct(len(self.classes), ways, generator)
        large_enough = [group for group in self.groups if len(group) >= ways]
        # A random class selects its group, so that every class is in as many tasks.
        ends = list(accumulate(map(len, large_enough)))
        group = large_enough[bisect_right(ends, draw_count((0, ends[-1] - 1), generator))]
        return torch.tensor(group)[distinct(len(group), ways, generator)]

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


def _to_float(rows: Tensor) -> Tensor:
    """Pixels in [0, 1]; what is no uint8 stays as it is."""
    return to_unit(rows) if rows.dtype == torch.uint8 else rows


@lru_cache(maxsize=64)
def _layout(ways: int, shots: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """A balanced task's order of rows, support first, and the targets of support and query.

    The tensors are cached and shared between tasks: do not modify them.
    """
    way = torch.arange(ways)
    position = torch.arange(ways * (shots + queries)).view(ways, -1)
    order = torch.cat([position[:, :shots].flatten(), position[:, shots:].flatten()])
    return order, way.repeat_interleave(shots), way.repeat_interleave(queries)
