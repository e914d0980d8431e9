"""Which pretrained features suit a target: a ranking by its labelled rows, without training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.base.door import received
from quickstudy.base.modules import device_of
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.trees import map_tree
from quickstudy.base.trees import rows as row_count
from quickstudy.base.words import count
from quickstudy.core import Examples
from quickstudy.evaluation.strict_json import plain
from quickstudy.evaluation.transfer_scores import Score, nearest_neighbours

ROWS_AT_ONCE = 256
"""Rows that a backbone is given at once."""


@dataclass(frozen=True)
class Scored:
    """One candidate: its ``score``, the number of ``features``, and the ``seconds`` both took."""

    name: str
    score: float
    features: int
    seconds: float


@dataclass(frozen=True)
class Ranking:
    """Candidates by falling score.

    ``score``   the name of the score.
    ``rows``    the number of target rows that it read.
    ``classes`` how many classes they have; 0 for real targets.
    ``table``   the candidates, best first; equal scores keep the order in which they were given.
    """

    score: str
    rows: int
    classes: int
    table: tuple[Scored, ...]

    @property
    def best(self) -> str:
        """The name of the first candidate."""
        return self.table[0].name

    def agreement(self, results: Mapping[str, float]) -> float:
        """Weighted Kendall τ in [-1, 1] of the scores and ``results``, such as real accuracies.

        Pairs count by 1 / (1 + rank) of both, so that the order among the best matters most, and
        the mean over the ranks of the scores and of the results is taken, as in published tables.

        Raises ValueError where ``results`` are not of the same candidates, or fewer than 2.

        Reference: Vigna (2015), A Weighted Correlation Index for Rankings with Ties; by scipy.
        """
        names = [row.name for row in self.table]
        if set(names) != set(results) or len(names) < 2:
            raise ValueError(
                f"agreement: needs one result for each of 2 or more candidates, {sorted(names)}; "
                f"found {sorted(results)}. Give name -> accuracy for these."
            )
        return weighted_tau([r.score for r in self.table], [results[name] for name in names])

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.table)
        classes = count(self.classes, "class", "classes") if self.classes else "real targets"
        lines = [f"{self.score} of {count(self.rows, 'row')} in {classes}"]
        lines += [
            f"  {row.name:<{width}}  {row.score:>9.4g}  ({row.features} features, "
            f"{row.seconds:.2g} s)"
            for row in self.table
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        table = [{**vars(row), "score": plain(row.score)} for row in self.table]
        return {"score": self.score, "rows": self.rows, "classes": self.classes, "table": table}


def transferability(
    candidates: Mapping[str, nn.Module | Tensor], rows: Examples, score: Score = nearest_neighbours
) -> Ranking:
    """Rank pretrained models for a target by a score of their features; nothing is trained.

    ``candidates``  name -> a backbone, inputs (n, ...) -> features (n, d), or features (n, d) of
                    ``rows`` that were computed before. For :func:`leep` and :func:`nce`: the
                    probabilities of a source classifier.
    ``rows``        labelled target rows. Rows of weight 0 and unlabelled ones are left out.
    ``score``       a function of :mod:`quickstudy.evaluation.transfer_scores` (also
                    ``qs.transfer_scores``), or one of your own: (features, targets) -> float,
                    higher is better.

    A score says which candidate is likely to be best, not how good it is. It knows nothing of
    fine-tuning, which may change the order.

    Raises ValueError without candidates or labelled rows, for other row weights than 0 and 1, which
    no published score has, for features that do not fit the rows or are not finite, and where the
    score is not a number.

    >>> import torch, quickstudy as qs
    >>> rows = qs.examples([[0.0, 9.0], [0.1, -9.0], [1.0, 9.0], [1.1, -9.0]], [0, 0, 1, 1])
    >>> found = {"first": rows.inputs[:, :1] - 0.5, "second": rows.inputs[:, 1:]}
    >>> qs.transferability(found, rows).best
    'first'
    """
    if not candidates:
        raise ValueError(
            "transferability: needs at least 1 candidate; found none. Give name -> backbone."
        )
    kept = _labelled_rows(rows)
    targets = rows.targets[kept]
    table = [_scored(name, given, rows, kept, targets, score) for name, given in candidates.items()]
    table.sort(key=lambda row: -row.score)
    classes = 0 if targets.is_floating_point() else len(targets.unique())
    name = getattr(score, "__name__", type(score).__name__)
    return Ranking(name, int(kept.sum()), classes, tuple(table))


def weighted_tau(scores: Sequence[float], results: Sequence[float]) -> float:
    """Weighted Kendall τ of two lists, see :meth:`Ranking.agreement`."""
    from scipy.stats import weightedtau

    return float(weightedtau(scores, results).statistic)


def features_of(backbone: nn.Module, inputs: Any, who: str) -> Tensor:
    """(n, d): what ``backbone`` gives in evaluation mode, a part of the rows at a time, on the CPU.

    Raises ValueError for anything but one vector of finite numbers for each row.
    """
    module = in_evaluation_mode(backbone)
    inputs = received(module, inputs, who)
    n = row_count(inputs)
    parts = []
    with torch.no_grad():
        for start in range(0, n, ROWS_AT_ONCE):
            part = map_tree(
                lambda x, s=start: x[s : s + ROWS_AT_ONCE].to(device_of(module)), inputs
            )
            found = module(part)
            parts.append(found.flatten(1).cpu() if isinstance(found, Tensor) else found)
    if not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(
            f"{who}: a backbone must give a tensor (n, d); found {type(parts[0]).__name__}. Wrap "
            "it in a module whose forward returns the features."
        )
    return torch.cat(parts)


def _labelled_rows(rows: Examples) -> Tensor:
    """(n,): which rows are labelled and have weight."""
    weights, targets = rows.weights, rows.targets
    if not isinstance(targets, Tensor):
        raise ValueError(
            f"transferability: needs class ids (n,) or reals (n, d); found a "
            f"{type(targets).__name__} of targets. Give one tensor."
        )
    if not bool(((weights == 0) | (weights == 1)).all()):
        other = float(weights[(weights != 0) & (weights != 1)][0])
        raise ValueError(
            f"transferability: the scores count every row once; found a weight of {other:g}. Give "
            "rows of weight 1, or 0 for those to leave out."
        )
    known = ~targets.isnan() if targets.is_floating_point() else targets >= 0
    kept = (weights > 0) & (known if known.ndim == 1 else known.flatten(1).all(1))
    if not bool(kept.any()):
        raise ValueError("transferability: needs labelled target rows; found none. Label some.")
    return kept


def _scored(
    name: str,
    given: nn.Module | Tensor,
    rows: Examples,
    kept: Tensor,
    targets: Tensor,
    score: Score,
) -> Scored:
    start, who = time.perf_counter(), f"transferability: {name}"
    if isinstance(given, nn.Module):
        inputs = map_tree(lambda leaf: leaf[kept], rows.inputs)
        features = features_of(given, inputs, who)
    else:
        features = _given_features(given, kept, who)
    if not bool(features.isfinite().all()):
        raise ValueError(
            f"{who}: features must be finite; found NaN or infinity. Scale the inputs."
        )
    value = float(score(features, targets))
    if math.isnan(value):
        raise ValueError(
            f"{who}: the score is not a number. Are all features equal, or of one class?"
        )
    return Scored(name, value, features.shape[1], time.perf_counter() - start)


def _given_features(given: Tensor, kept: Tensor, who: str) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim < 2 or len(given) != len(kept):
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"{who}: needs a backbone, or features (n, d) of the {len(kept)} rows; found {found}. "
            "Compute them for all rows, in the same order."
        )
    return given[kept].detach().flatten(1).cpu()
