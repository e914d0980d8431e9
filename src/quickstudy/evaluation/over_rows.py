"""The score of a single task over its query rows: what an interval needs where a name has one task.

A task with a fixed test set, such as one school or one assay, is scored once. Its score then has no
spread over tasks; it has one over the rows it is computed from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from quickstudy.answers.labels import RocAuc
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Answer, Examples, Score, Statistic
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.jackknife import without_each
from quickstudy.evaluation.predicted import Prediction
from quickstudy.evaluation.strict_json import number, plain
from quickstudy.tasks.examples import counted_weights


@dataclass(frozen=True)
class OverRows:
    """A task's score, row by row.

    ``values``  (n,) jackknife pseudo-values n θ - (n - 1) θ_without_i of the score θ: for a mean
                over rows of equal weight, each row's own value. NaN where θ without the row is
                undefined, as the ROC-AUC without its only positive row.
    ``inputs``  (n,) a number for each row's inputs, the same wherever they occur in an evaluation:
                tasks that share rows do not have independent scores.
    ``baselines``  for each baseline, the values (n,) of each of its strategies.

    Rows without weight or without a known target are left out.
    """

    values: Tensor
    inputs: Tensor
    baselines: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)

    @property
    def half_width(self) -> float:
        """Half the 95% interval of the score for other rows; infinite where it is not known."""
        return torch.inf if bool(self.values.isnan().any()) else half_width(self.values)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        return {"values": plain(self.values.tolist()), "inputs": self.inputs.tolist()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> OverRows:
        """What :meth:`to_json` gave."""
        scores = torch.tensor(number(values["values"]), dtype=torch.float64)
        return OverRows(scores, torch.tensor(values["inputs"], dtype=torch.int64))


class Inputs:
    """Numbers for rows of inputs: equal rows have the same number."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def number(self, inputs: Any) -> Tensor:
        """(n,) for a tensor (n, ...), or a tree of these."""
        arrays = [leaf.detach().cpu().contiguous() for leaf in leaves(inputs)]
        found = []
        for rows in zip(*(array.flatten(1) if array.ndim > 1 else array.unsqueeze(1)
                          for array in arrays), strict=True):  # fmt: skip
            digest = blake2b(digest_size=16)
            for row in rows:
                digest.update(row.view(torch.uint8).numpy())
            found.append(self._numbers.setdefault(digest.digest(), len(self._numbers)))
        return torch.tensor(found, dtype=torch.int64)


def over_rows(
    score: Score,
    predictions: Any,
    query: Examples,
    answer: Answer,
    inputs: Tensor,
    baselines: Mapping[str, Prediction] = MappingProxyType({}),
) -> OverRows:
    """The pseudo-values of ``score`` over the rows of ``query``.

    ``inputs``     (n,) the number of each row's inputs, see :class:`Inputs`.
    ``baselines``  by name, what each predicted.
    """
    values, kept = pseudo_values(score, predictions, query, answer)
    of_baselines = {}
    for name, predicted in baselines.items():
        strategies = predicted.decoded if score.decoded else predicted.predictions
        if strategies is not None:
            host = map_tree(Tensor.cpu, (list(strategies), predicted.query))
            of_baselines[name] = [pseudo_values(score, p, host[1], answer)[0] for p in host[0]]
    return OverRows(values, inputs[kept], of_baselines)


def pseudo_values(
    score: Score, predictions: Any, query: Examples, answer: Answer
) -> tuple[Tensor, Tensor]:
    """(n,) the pseudo-values of the rows that count, and which rows these are."""
    kept = (counted_weights(query, answer) > 0).nonzero().flatten()
    chosen = map_tree(lambda leaf: leaf[kept], (predictions, query._replace(inputs=())))
    predictions, rows = chosen
    n = len(kept)
    if n < 2:
        return torch.full((n,), torch.nan, dtype=torch.float64), kept
    whole = _doubled(score.statistic(predictions, rows))
    theta = score.value(whole).double()
    without = _without_each_row(score, whole, predictions, rows)
    return n * theta - (n - 1) * without, kept


def _without_each_row(score: Score, whole: Statistic, predictions: Any, rows: Examples) -> Tensor:
    """(n,) the score without the first row, without the second, …"""
    if isinstance(score, RocAuc):
        return _areas_without_each(whole)
    n, each = len(rows.weights), _of_each_row(score, predictions, rows)
    if type(score).merge is not Score.merge:
        return without_each(score, [{k: v[i] for k, v in each.items()} for i in range(n)])
    others = {name: whole[name] - each[name] for name in whole}
    return torch.stack([score.value({k: v[i] for k, v in others.items()}) for i in range(n)])


def _of_each_row(score: Score, predictions: Any, rows: Examples) -> Statistic:
    """The statistic of every row: each of its entries (n, ...)."""
    if score.while_training:
        one_row = map_tree(lambda leaf: leaf.unsqueeze(1), (predictions, rows))
        with suppress(Exception):  # what vmap cannot compute, the loop can
            return _doubled(vmap(score.statistic)(*one_row))
    found = []
    for i in range(len(rows.weights)):
        one = map_tree(lambda leaf, i=i: leaf[i : i + 1], (predictions, rows))
        found.append(score.statistic(*one))
    return _doubled({name: torch.stack([each[name] for each in found]) for name in found[0]})


def _areas_without_each(pairs: Statistic) -> Tensor:
    """(n,) the mean ROC-AUC over labels without each row, by sorting once.

    With W+ and W- the weights of positive and negative rows, and A W+ W- the weight of the pairs
    in the right order, a positive row i takes w_i sum_j w_j [s_i > s_j] of it away (ties half).
    """
    found = []
    for label in range(pairs["predictions"].shape[1]):
        s, y, w = pairs["predictions"][:, label], pairs["targets"][:, label], pairs["weights"]
        won = torch.zeros_like(s)
        weight = {value: w * (y == value) for value in (1.0, 0.0)}
        for value, sign in ((1.0, 1.0), (0.0, -1.0)):
            won += weight[value] * _weight_below(sign * s, weight[1.0 - value])
        total = won[y == 1.0].sum()
        positive = weight[1.0].sum() - weight[1.0]
        negative = weight[0.0].sum() - weight[0.0]
        found.append((total - won) / (positive * negative))  # 0 / 0 is NaN, as it should be
    return torch.stack(found).nanmean(0)


def _weight_below(scores: Tensor, weights: Tensor) -> Tensor:
    """(n,) the weight of rows with a lower score than each row's, half for equal ones."""
    ordered, order = scores.sort()
    below = torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    less, equal = (
        below[torch.searchsorted(ordered, scores.contiguous(), right=right)]
        for right in (False, True)
    )
    return (less + equal) / 2


def _doubled(statistic: Statistic) -> Statistic:
    """In float64, since sums of counts over many rows exceed the precision of float32."""
    return {k: v.double() if v.is_floating_point() else v for k, v in statistic.items()}
