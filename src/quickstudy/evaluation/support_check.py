"""What a learner's predictions for a support set are worth, from the support set alone.

Each row is predicted by a predictor that was adapted without it, as in leave-one-out
cross-validation (Stone, 1974, *Cross-Validatory Choice and Assessment of Statistical Predictions*).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.baselines import nearest_mean
from quickstudy.base.words import count
from quickstudy.core import Examples, Learner, TaskSpec
from quickstudy.datasets.progress import track
from quickstudy.evaluation.intervals import share_interval
from quickstudy.evaluation.wording import score as in_words
from quickstudy.tasks.examples import take
from quickstudy.tasks.order import in_mixed_order

MOST_LEFT_OUT = 50
"""Up to so many rows, each is left out alone: the cost is one adaptation for each."""
FOLDS = 10
"""Parts that are left out one after the other where there are more rows."""


LeftOut = tuple[Tensor, Tensor]
"""Numbers of rows (n,) that were left out together, and predictions (n, ways) for them."""


@dataclass(frozen=True)
class SupportCheck:
    """How many rows of a support set were predicted right when left out of it.

    ``folds``         the number of adaptations; equal to ``rows`` where each was left out alone.
    ``rows``          the rows that were predicted; those alone in their class cannot be.
    ``all_rows``      the rows of the support set.
    ``right``         rows that the learner predicted right.
    ``nearest_mean``  rows that the nearest mean of the raw inputs predicted right; None where
                      inputs have no mean.
    ``commonest``     rows of the commonest class.
    ``left_out``      the predictions for these rows.
    """

    folds: int
    rows: int
    all_rows: int
    right: int
    nearest_mean: int | None
    commonest: int
    ways: int
    left_out: tuple[LeftOut, ...] = field(default=(), repr=False, compare=False)

    @property
    def possible(self) -> bool:
        """Whether some class had two rows, so that one could be left out."""
        return self.rows > 0

    @property
    def accuracy(self) -> float:
        """The share of rows that the learner predicted right."""
        return self.right / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy."""
        return share_interval(self.right, self.rows)

    @property
    def chance(self) -> float:
        """The accuracy of always the commonest class: 1 / ways where classes have equally many."""
        return max(self.commonest / self.rows, 1 / self.ways)

    @property
    def method(self) -> str:
        """ "leave-one-out", or for example "10-fold cross-validation"."""
        alone = self.folds == self.rows
        return "leave-one-out" if alone else f"{self.folds}-fold cross-validation"

    @property
    def no_better_than(self) -> list[str]:
        """The baselines that the learner was not shown to be better than, with their accuracy.

        Chance, where the interval reaches down to it; the nearest mean, where it has as many right.
        """
        if not self.possible:
            return []
        found = []
        if self.interval[0] <= self.chance:
            found.append(f"chance ({in_words(self.chance, '%')})")
        if self.nearest_mean is not None and self.right <= self.nearest_mean:
            share = in_words(self.nearest_mean / self.rows, "%")
            found.append(f"the nearest mean of raw inputs ({share})")
        return found

    @property
    def headline(self) -> str:
        """The accuracy with its interval, the method and the number of rows."""
        low, high = self.interval
        of = f"{self.rows} of " if self.rows < self.all_rows else ""
        rows = of + count(self.all_rows, "row")
        return (
            f"{in_words(self.accuracy, '%')} right when left out (95% interval "
            f"{in_words(low, '%')} to {in_words(high, '%')}; {self.method}, {rows})"
        )

    def __str__(self) -> str:
        if not self.possible:
            return (
                "impossible with one row in each class, since a class without rows cannot be "
                "predicted. Give two or more rows of each class to check the predictor"
            )
        (low, high), parts = self.interval, [self.headline]
        if self.nearest_mean is not None:
            share = self.nearest_mean / self.rows
            within = ", inside the interval" if low <= share <= high else ""
            parts.append(f"nearest mean of raw inputs {in_words(share, '%')}{within}")
        parts.append(f"chance {in_words(self.chance, '%')}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The check as plain values; without an accuracy where it was impossible."""
        counts = {"rows": self.rows, "all_rows": self.all_rows}
        if not self.possible:
            return {**counts, "accuracy": None, "reason": str(self)}
        raw = self.nearest_mean
        return {
            **counts,
            "method": self.method,
            "accuracy": round(self.accuracy, 6),
            "interval": [round(end, 6) for end in self.interval],
            "nearest_mean": None if raw is None else round(raw / self.rows, 6),
            "chance": round(self.chance, 6),
            "no_better_than": self.no_better_than,
        }


def check_support_set(
    learner: Learner, support: Examples, spec: TaskSpec, raw: Examples | None = None
) -> SupportCheck:
    """Predict the rows of ``support`` by predictors of ``learner`` that were adapted without them.

    Up to 50 rows are left out one by one, more in ten parts, each with rows of every class that has
    enough; so the check takes at most 50 times as long as adapting. For a transductive learner,
    whose predictions depend on one another, rows are always left out in parts with rows of every
    class.

    Rows that are alone in their class are never left out, and not counted. ``spec`` must ask for
    classes. ``raw`` are the same rows with their inputs, where those of ``support`` are features.
    """
    targets, raw = support.targets, support if raw is None else raw
    found = tuple(left_out_predictions(learner, support, spec))
    parts, right, nearest, has_mean = [part for part, _ in found], 0, 0, True
    for part, predictions in found:
        kept, left_out = _without(part, len(targets)), take(support, part)
        right += _right(predictions, left_out)
        means = nearest_mean(take(raw, kept), take(raw, part).inputs, spec.outputs)
        has_mean = has_mean and means is not None
        nearest += 0 if means is None else _right(means, left_out)
    checked = targets[torch.cat(parts)] if parts else targets[:0]
    commonest = int(checked.bincount().max()) if len(checked) else 0
    return SupportCheck(
        len(parts), len(checked), len(targets), right, nearest if has_mean else None, commonest,
        spec.outputs, found,
    )  # fmt: skip


def left_out_predictions(learner: Learner, support: Examples, spec: TaskSpec) -> Iterator[LeftOut]:
    """Predictions for rows by predictors that were adapted without them, part by part."""
    parts = folds(support.targets, learner.transductive)
    for part in track(parts, "Checking", len(parts), unit="adaptations"):
        rest = take(support, _without(part, len(support.targets)))
        with torch.no_grad():
            yield part, learner(in_mixed_order(learner, rest), spec)(take(support, part).inputs)


def _without(part: Tensor, rows: int) -> Tensor:
    """A mask (rows,) of all but the rows ``part``."""
    kept = torch.ones(rows, dtype=torch.bool)
    kept[part] = False
    return kept


def folds(targets: Tensor, together: bool) -> list[Tensor]:
    """The row numbers that are left out at once; none of rows that are alone in their class.

    ``together``  never a single row where classes have more: for transductive learners.
    """
    counts = targets.bincount()
    rows = torch.nonzero(counts[targets] > 1).flatten()
    if len(rows) == 0:
        return []
    if len(rows) <= MOST_LEFT_OUT and not together:
        return list(rows.split(1))
    number = min(FOLDS, int(counts[counts > 1].min())) if together else FOLDS
    # Class by class, rows go to the parts in turn, so every part has its share of every class.
    ordered = rows[targets[rows].argsort(stable=True)]
    return [ordered[first::number] for first in range(number)]


def _right(logits: Tensor, rows: Examples) -> int:
    return int((logits.argmax(1) == rows.targets).sum())
