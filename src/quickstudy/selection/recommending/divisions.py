"""The classes for training, the race and the last test; few classes are divided several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from quickstudy.base.trees import concatenate
from quickstudy.selection.recommending.on_pretrained import View, shrunk
from quickstudy.tasks.episodes import Episodes, episodes
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import split_classes

TRAIN_QUERIES = 5

DIVISIONS = 3
"""How often few classes are divided, as often as finalists train by default."""

FEW = 2
"""With fewer than so many times the ways in the test part, one division is luck: 5-way tasks of 5
test classes all have the same classes."""


@dataclass(frozen=True)
class Splits:
    """Rows of classes for training, the race and the last test, and the tasks that are asked for.

    ``test``  None where there are too few classes for a third part.
    """

    train: LabelledRows
    val: LabelledRows
    test: LabelledRows | None
    ways: int
    shots: int
    queries: int

    @property
    def classes(self) -> int:
        """How many classes there are in all."""
        return sum(len(each) for each in (self.train, self.val, self.test) if each is not None)

    def shrunk(self) -> Splits:
        """With pictures that are small enough to train a network on them from scratch."""
        test = None if self.test is None else shrunk(self.test)
        return replace(self, train=shrunk(self.train), val=shrunk(self.val), test=test)

    def source(self, rows: LabelledRows, shuffled: bool, shots: int = 0) -> Episodes:
        """Tasks of these rows, as they are asked for, with as many ways as there are classes."""
        shots = shots or self.shots
        queries = max(1, min(self.queries, int(rows.counts.min()) - shots))
        return episodes(rows, min(self.ways, len(rows)), shots, queries, shuffled=shuffled)

    def training(self, ways: int, shuffled: bool) -> Episodes:
        """Training tasks of ``ways`` classes, or as many as there are."""
        queries = max(1, min(TRAIN_QUERIES, int(self.train.counts.min()) - self.shots))
        return episodes(
            self.train, min(ways, len(self.train)), self.shots, queries, shuffled=shuffled
        )


def divided(rows: LabelledRows, ways: int, shots: int, queries: int, seed: int) -> list[Splits]:
    """One division of the classes; of few classes several, each with other test classes."""
    first = Splits(*split_classes(rows, seed=seed), ways, shots, queries)
    assert first.test is not None
    if len(first.test) >= FEW * ways:
        return [first]
    times = min(DIVISIONS, len(rows) // len(first.test))
    return [
        Splits(*split_classes(rows, seed=seed, turn=turn), ways, shots, queries)
        for turn in range(times)
    ]


def view_of(view: View, splits: Splits) -> View:
    """The features of another division of the classes that ``view`` has."""
    parts = [part for part in (view.train, view.val, view.test) if part is not None]
    every = LabelledRows(
        concatenate(*(part.inputs for part in parts)),
        torch.cat([part.counts for part in parts]),
        tuple(name for part in parts for name in part.names),
    )
    place = {name: i for i, name in enumerate(every.names)}

    def of(names: Sequence[str]) -> LabelledRows:
        return every.select([place[name] for name in names])

    test = None if splits.test is None else of(splits.test.names)
    return replace(view, train=of(splits.train.names), val=of(splits.val.names), test=test)
