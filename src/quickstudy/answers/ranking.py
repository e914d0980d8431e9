"""Scores of a ranking: whether rows of class 1 come before those of class 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quickstudy.answers import metrics
from quickstudy.core import Examples, Score, Statistic


class _OfRanking(Score):
    """A score of how queries are ordered by their log-odds of class 1, one number for each task."""

    while_training: ClassVar[bool] = False

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``score`` (), that of this task, and ``tasks`` (), 1: merged, they give the mean."""
        odds = predictions[..., 1] - predictions[..., 0]
        positive = query.targets.to(odds.dtype)
        weights = query.weights.to(odds.dtype).masked_fill(query.targets < 0, 0.0)
        found = self._of(odds, positive, weights)
        return {"score": found, "tasks": found.new_ones(())}

    def value(self, statistic: Statistic) -> Tensor:
        """The score (); NaN for a task whose queries are all of one class."""
        return statistic["score"] / statistic["tasks"]

    def _of(self, odds: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class DeltaAuprc(_OfRanking):
    """Average precision above chance: above the share of class 1 among the queries.

        delta = AP - sum_i w_i [y_i = 1] / sum_i w_i

    0 is chance, and 1 - share the best. Reference: Stanley et al. (2021), FS-Mol: A Few-Shot
    Learning Dataset of Molecules, section 5, whose curve is that of average precision too.
    """

    name: ClassVar[str] = "ΔAUPRC"

    def _of(self, odds: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
        share = (weights * (positive == 1)).sum() / weights.sum()
        # Without a negative row every ranking is perfect, and tells nothing.
        found: Tensor = (metrics.average_precision(odds, positive, weights) - share).masked_fill(
            share >= 1, float("nan")
        )
        return found


@dataclass(frozen=True)
class TaskRocAuc(_OfRanking):
    """The area under the ROC curve of each task; the mean over tasks, where 0.5 is chance."""

    name: ClassVar[str] = "ROC-AUC"

    def _of(self, odds: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
        return metrics.roc_auc(odds, positive, weights)
