"""Multi-label classification: yes, no or unknown for each of several labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from quickstudy.answers import metrics
from quickstudy.answers.baselines import as_vectors
from quickstudy.answers.checks import check_count
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic


class _Pairs(Score):
    """A score that needs all pairs (prediction, target); pooled over tasks.

    Pooled because in one small task a label is often yes, or no, for all rows, and then has no
    score.
    """

    pooled: ClassVar[bool] = True

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``predictions`` and ``targets`` (n, k), ``weights`` (n,) of the queries."""
        return {
            "predictions": predictions,
            "targets": _as_numbers(query.targets, predictions.dtype),
            "weights": query.weights,
        }

    def merge(self, statistics: Any) -> Statistic:
        """All pairs, one task after the other."""
        return {name: torch.cat([s[name] for s in statistics]) for name in statistics[0]}

    def _mean(self, of_label: Any, statistic: Statistic) -> Tensor:
        """The mean over the labels that have a score; NaN if none has."""
        predictions, targets, weights = (
            statistic[n] for n in ("predictions", "targets", "weights")
        )
        of_labels: Tensor = torch.vmap(of_label, in_dims=(1, 1, None))(
            predictions, targets, weights
        )
        return of_labels.nanmean()


@dataclass(frozen=True)
class RocAuc(_Pairs):
    """The area under the ROC curve, the mean over labels."""

    name: ClassVar[str] = "ROC-AUC"

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]; 0.5 is chance."""
        return self._mean(metrics.roc_auc, statistic)


@dataclass(frozen=True)
class AveragePrecision(_Pairs):
    """The area under the precision-recall curve, the mean over labels."""

    name: ClassVar[str] = "average precision"

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]; chance is the share of yes."""
        return self._mean(metrics.average_precision, statistic)


@dataclass(frozen=True)
class Labels(Answer):
    """Yes, no or unknown for each of ``k`` labels; a row may have several.

    Targets (n, k): 0 and 1, and -1 or NaN where unknown; predictions (n, k) logits. The loss is
    binary cross-entropy. Scores are the area under the ROC curve and average precision, pooled
    over tasks.

    Raises ValueError for k < 1.
    """

    k: int
    kind: ClassVar[str] = "labels"
    guess_name: ClassVar[str] = "chance"

    def __post_init__(self) -> None:
        check_count("Labels", "k", self.k, 1)

    @property
    def outputs(self) -> int:
        """k."""
        return self.k

    def check(self, targets: Any, what: str = "targets") -> None:
        """(n, k)."""
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        if not isinstance(targets, Tensor) or targets.ndim != 2 or targets.shape[1] != self.k:
            raise ValueError(
                f"{what}: multi-label tasks need targets (n, {self.k}) of 0 and 1; found "
                f"{shape}. Give a column for each label, with NaN where it is unknown."
            )

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """Only 0, 1 and unknown."""
        valid = (targets == 0) | (targets == 1) | (targets == -1) | targets.isnan()
        invalid = targets[~valid]
        if invalid.numel():
            raise ValueError(
                f"{what}: labels are 0 (no), 1 (yes), and NaN or -1 (unknown); found "
                f"{invalid[0].item():g}. Turn class ids into one column for each class."
            )

    def known(self, targets: Tensor) -> Tensor:
        """(n, k): which labels are known."""
        return targets >= 0  # false for NaN

    def fill(self, targets: Tensor) -> Tensor:
        """No, 0, for unknown labels."""
        return targets.where(self.known(targets), 0)

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """-log sigmoid(±prediction): (n, k)."""
        return softplus(predictions) - predictions * targets.to(predictions.dtype)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """1 for yes, -1 for no, 0 for unknown: (n, k)."""
        known = self.known(targets).to(dtype or torch.get_default_dtype())
        signs: Tensor = 2 * self.fill(targets).to(known.dtype) - 1
        return known * signs

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """(n, k) booleans: the labels with a probability above one half."""
        predictions: Tensor = predictor(inputs)
        return predictions > 0

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """(n, k)."""
        return len(targets), self.k

    @property
    def scores(self) -> tuple[Score, ...]:
        """The area under the ROC curve, then average precision."""
        return RocAuc(), AveragePrecision()

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """The same prediction everywhere: ROC-AUC 0.5, average precision the share of yes."""
        return [query.weights.new_zeros(len(query.weights), self.k)]

    def nearest_mean(self, support: Examples, query: Examples) -> Tensor | None:
        """Where inputs lie between the mean without a label, -0.5, and the mean with it, 0.5.

        0 for a label that no row of the support has, or that all have. None where inputs are not
        all reals.
        """
        rows, queries = as_vectors(support.inputs), as_vectors(query.inputs)
        if rows is None or queries is None:
            return None
        centre, weights = rows.mean(0), support.weights.to(rows.dtype).unsqueeze(-1)
        rows, queries = rows - centre, queries - centre
        without, having = (weights * (support.targets == value) for value in (0, 1))
        tiny = torch.finfo(rows.dtype).tiny
        low, high = (
            part.mT @ rows / part.sum(0).clamp_min(tiny)[:, None] for part in (without, having)
        )
        between, middle = high - low, (high + low) / 2
        lengths = between.square().sum(1)
        places = queries @ between.mT - (between * middle).sum(1)
        has_both = (without.sum(0) > 0) & (having.sum(0) > 0) & (lengths > 0)
        return torch.where(has_both, places / lengths.clamp_min(tiny), 0.0)


def _as_numbers(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """0 and 1 as reals, unknown ones as NaN."""
    return targets.to(dtype).where(targets >= 0, torch.nan)
