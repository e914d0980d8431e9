"""Classification: one class per row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from quickstudy.answers.baselines import nearest_mean
from quickstudy.answers.checks import check_count, check_ids, check_largest_id, equal_but_for
from quickstudy.answers.clustering import (
    AdjustedRandIndex,
    HungarianAccuracy,
    NormalisedMutualInformation,
)
from quickstudy.answers.ranking import DeltaAuprc, TaskRocAuc
from quickstudy.base.counted_fields import ADDED, counted_fields
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic


@dataclass(frozen=True)
class Accuracy(Score):
    """The weighted share of queries classified correctly; the mean over tasks."""

    name: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "%"

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``right`` and ``total``: the weight of correct queries, and of all."""
        right = (predictions.argmax(-1) == query.targets).to(query.weights.dtype)
        weights = query.weights.masked_fill(query.targets < 0, 0.0)
        return {"right": (weights * right).sum(-1), "total": weights.sum(-1)}

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]."""
        return statistic["right"] / statistic["total"]


@dataclass(frozen=True)
class Classes(Answer):
    """Which of ``ways`` classes a row belongs to.

    Targets (n,) integer ids, -1 where unknown; predictions (n, ways) logits. The loss is
    cross-entropy, the score accuracy. Tasks of different numbers of ways can share a stack: a class
    without weight in the support set gets no probability.

    ``clusters``  whether the names of predicted classes mean nothing, as those of clusters found
                  without labels. The scores are then Hungarian accuracy, normalised mutual
                  information and the adjusted Rand index (:mod:`quickstudy.answers.clustering`).
    ``ranked``    whether rows of class 1 are looked for among many of class 0, as active molecules
                  are. The scores are then those of their order, ΔAUPRC and the area under the ROC
                  curve (:mod:`quickstudy.answers.ranking`); 2 ways.

    Raises ValueError for fewer than 2 ways, and for others than 2 that are ranked.
    """

    ways: int
    clusters: bool = field(default=False, metadata=ADDED)
    ranked: bool = field(default=False, metadata=ADDED)
    kind: ClassVar[str] = "classes"
    guess_name: ClassVar[str] = "chance"

    def __post_init__(self) -> None:
        check_count("Classes", "ways", self.ways, 2)
        if self.ranked and (self.ways != 2 or self.clusters):
            raise ValueError(
                "Classes: rows are ranked by one class against another, so ranked=True needs 2 "
                f"ways and no clusters; found {self.ways} ways, clusters={self.clusters}. Leave "
                "ranked out."
            )

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value}" for name, value in counted_fields(self).items())
        return f"Classes({told})"

    @property
    def outputs(self) -> int:
        """The number of ways."""
        return self.ways

    def check(self, targets: Any, what: str = "targets") -> None:
        """Integer ids (n,)."""
        remedy = "Use integer ids, or qs.regression(outputs) for reals."
        if isinstance(targets, Tensor) and targets.ndim == 2 and not targets.is_floating_point():
            remedy = "Turn one-hot rows into ids with targets.argmax(-1), or see qs.multilabel and "
            remedy += "qs.regression."
        check_ids(targets, what, "classification", ("n",), remedy)

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No id of ``ways`` or more."""
        check_largest_id(
            targets, what, self.ways, "Renumber the classes, or raise the spec's ways."
        )

    def known(self, targets: Tensor) -> Tensor:
        """(n,): whether the class is known."""
        return targets >= 0

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(predictions)[target]: (n, ways), (n,) -> (n,)."""
        return cross_entropy(predictions, targets)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """One-hot rows (n, ways), zeros where the class is unknown."""
        return one_hot(targets, self.ways, dtype or torch.get_default_dtype())

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """The most probable class of each row, (n,)."""
        predictions: Tensor = predictor(inputs)
        return predictions.argmax(-1)

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """(n, ways)."""
        return len(targets), self.ways

    @property
    def scores(self) -> tuple[Score, ...]:
        """Accuracy, or the scores of a clustering or of a ranking."""
        if self.ranked:
            return DeltaAuprc(), TaskRocAuc()
        if self.clusters:
            return HungarianAccuracy(), NormalisedMutualInformation(), AdjustedRandIndex()
        return (Accuracy(),)

    def join(self, other: Answer) -> Answer | None:
        """The one with more ways."""
        if not equal_but_for("ways", self, other):
            return None
        return max(self, other, key=lambda each: each.outputs)

    def present(self, targets: Tensor, weights: Tensor) -> Tensor:
        """(ways,): whether each class has rows with weight."""
        return weights @ one_hot(targets, self.ways, weights.dtype) > 0

    def hide_absent(self, targets: Tensor, present: Tensor | None) -> Tensor:
        """Ids of absent classes replaced by -1."""
        return hide_absent(targets, present)

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """For all rows the commonest class of the support, or class 0, or class 1, …

        The best of these scores 1 / ways where queries are balanced, and otherwise the share of the
        commonest class, whether it is always the same class or each task's own.
        """
        shares = support.weights @ one_hot(support.targets, self.ways, support.weights.dtype)
        classes = torch.cat([shares.argmax().reshape(1), torch.arange(self.ways).to(shares.device)])
        rows = one_hot(classes, self.ways, shares.dtype)
        return [row.expand(len(query.weights), -1) for row in rows]

    def nearest_mean(self, support: Examples, query: Examples) -> Tensor | None:
        """See :func:`quickstudy.answers.baselines.nearest_mean`."""
        return nearest_mean(support, query.inputs, self.ways)


def cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(predictions)[target] over the last axis: (..., classes), (...) -> (...)."""
    picked = predictions.log_softmax(-1).gather(-1, targets.long().unsqueeze(-1))
    return -picked.squeeze(-1)


def one_hot(targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """Class ids (...) -> (..., outputs) zeros and ones; works under ``vmap``."""
    return (targets.unsqueeze(-1) == torch.arange(outputs, device=targets.device)).to(dtype)


def hide_absent(targets: Tensor, present: Tensor | None) -> Tensor:
    """Ids (...) with -1 in place of classes that are not ``present`` (outputs,)."""
    if present is None:
        return targets
    targets = targets.long()  # an unsigned type has no -1
    return targets.where(present[targets.clamp_min(0)], -1)
