"""Which classes are taken for which others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.words import count
from quickstudy.evaluation.intervals import share_interval
from quickstudy.evaluation.wording import score as in_words


@dataclass(frozen=True)
class Confusion:
    """Counts (classes, classes) of rows by their true class, and by their predicted one."""

    names: tuple[str, ...]
    counts: Tensor

    @staticmethod
    def of(names: Sequence[str], true: Tensor, predicted: Tensor) -> Confusion:
        """The counts for class ids ``true`` and ``predicted``, each (n,) with n > 0."""
        ways = len(names)
        pairs = (true * ways + predicted).bincount(minlength=ways * ways)
        return Confusion(tuple(names), pairs.view(ways, ways))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of rows that were predicted right."""
        return int(self.counts.diag().sum()) / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy."""
        return share_interval(int(self.counts.diag().sum()), self.rows)

    @property
    def chance(self) -> float:
        """The accuracy of always the commonest class: 1 / classes where all are as common."""
        return int(self.counts.sum(1).max()) / self.rows

    @property
    def mistakes(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, rows) of each kind of mistake, the commonest first."""
        wrong = self.counts - self.counts.diag().diag()
        found = [(t, p, int(wrong[t, p])) for t, p in torch.nonzero(wrong).tolist()]
        return sorted(found, key=lambda mistake: -mistake[2])

    def __str__(self) -> str:
        low, high = self.interval
        within = "; the interval contains chance" if low <= self.chance <= high else ""
        return (
            f"{in_words(self.accuracy, '%')} (95% interval {in_words(low, '%')} to "
            f"{in_words(high, '%')}, {count(self.rows, 'row')}; "
            f"chance {in_words(self.chance, '%')}{within})"
        )

    def to_json(self) -> dict[str, Any]:
        """Accuracy with interval and chance, and the counts, one list for each true class."""
        return {
            "accuracy": round(self.accuracy, 6),
            "interval": [round(end, 6) for end in self.interval],
            "chance": round(self.chance, 6),
            "rows": self.rows,
            "confusion": {"names": list(self.names), "counts": self.counts.tolist()},
        }
