"""Scores of a clustering: agreement with true classes when the clusters' names mean nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Examples, Score, Statistic


class _OfTable(Score):
    """A score of the table of true classes (rows) and chosen clusters (columns)."""

    while_training: ClassVar[bool] = False

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``table`` (ways, ways): the weight of queries of each true class in each cluster."""
        ways = predictions.shape[-1]
        weights = query.weights.masked_fill(query.targets < 0, 0.0)
        ids = torch.arange(ways, device=predictions.device)
        true = (query.targets.unsqueeze(-1) == ids).to(weights.dtype)
        chosen = (predictions.argmax(-1).unsqueeze(-1) == ids).to(weights.dtype)
        return {"table": (weights.unsqueeze(-1) * true).mT @ chosen}


@dataclass(frozen=True)
class HungarianAccuracy(_OfTable):
    """The share of queries in the right cluster, under the naming of clusters that is best for it.

    The naming is found by scipy's ``linear_sum_assignment``. Each task has its own.
    """

    name: ClassVar[str] = "Hungarian accuracy"
    unit: ClassVar[str] = "%"

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]; NaN without queries."""
        from scipy.optimize import linear_sum_assignment

        table = statistic["table"]
        true, chosen = linear_sum_assignment(table.detach().cpu().numpy(), maximize=True)
        return table[true, chosen].sum() / table.sum()


@dataclass(frozen=True)
class NormalisedMutualInformation(_OfTable):
    """I(true; chosen) / ((H(true) + H(chosen)) / 2); 0 if independent, 1 if the same clusters.

    Equal to scikit-learn's ``normalized_mutual_info_score``.
    """

    name: ClassVar[str] = "NMI"

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]; 1 where both have one cluster, NaN without queries."""
        p = statistic["table"] / statistic["table"].sum()
        of_true, of_chosen = _entropy(p.sum(1)), _entropy(p.sum(0))
        mutual = of_true + of_chosen - _entropy(p.flatten())
        both = of_true + of_chosen
        return torch.where(both == 0, 1.0, 2 * mutual / torch.where(both == 0, 1.0, both))


@dataclass(frozen=True)
class AdjustedRandIndex(_OfTable):
    """The share of pairs of queries on which both agree, scaled to 0 by chance and 1 at best.

    Equal to scikit-learn's ``adjusted_rand_score`` for whole weights, which count equal rows.
    Reference: Hubert and Arabie (1985), Comparing Partitions, equation 5.
    """

    name: ClassVar[str] = "ARI"

    def value(self, statistic: Statistic) -> Tensor:
        """At most 1; 1 where there are no pairs to tell apart, NaN without queries."""
        table = statistic["table"]
        total = table.sum()
        both, of_true, of_chosen = (
            _pairs(part).sum() for part in (table, table.sum(1), table.sum(0))
        )
        expected = of_true * of_chosen / _pairs(total).clamp_min(torch.finfo(total.dtype).tiny)
        range_ = (of_true + of_chosen) / 2 - expected
        index = torch.where(
            range_ == 0, 1.0, (both - expected) / torch.where(range_ == 0, 1.0, range_)
        )
        return torch.where(total > 0, index, torch.nan)


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = -torch.special.xlogy(p, p).sum()
    return entropy
