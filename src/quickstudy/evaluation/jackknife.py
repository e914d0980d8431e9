"""Leaving out each task in turn: how well a pooled score is known (Quenouille, 1956; Tukey, 1958).

A pooled score is one figure for all tasks, so it has no spread to look at. Its pseudo-values
T theta - (T - 1) theta_without_i stand in for the values of single tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.answers.labels import AveragePrecision, RocAuc
from quickstudy.core import Score, Statistic

Floats = NDArray[np.float64]
Area = Callable[[Floats, Floats], float]


def pseudo_values(score: Score, statistics: Sequence[Statistic], pooled: Tensor) -> Tensor:
    """(tasks,) pseudo-values of the ``pooled`` score; NaN where the others alone have no score.

    One task by itself has the pooled score.
    """
    tasks = len(statistics)
    if tasks == 1:
        return pooled.reshape(1)
    return tasks * pooled - (tasks - 1) * without_each(score, statistics)


@singledispatch
def without_each(score: Score, statistics: Sequence[Statistic]) -> Tensor:
    """(tasks,): the score of all tasks but one, for each that can be left out."""
    return torch.stack(_without_each(score, statistics, []))


def _without_each(
    score: Score, statistics: Sequence[Statistic], others: list[Statistic]
) -> list[Tensor]:
    """Halves at a time, so that T log T merges do the work of T².

    ``others``  the merged statistic of all tasks that are not in ``statistics``.
    """
    if len(statistics) == 1:
        return [score.value(others[0]).double()]
    middle = len(statistics) // 2
    first, second = statistics[:middle], statistics[middle:]
    return [
        *_without_each(score, first, [score.merge([*others, *second])]),
        *_without_each(score, second, [score.merge([*others, *first])]),
    ]


@without_each.register
def _(score: RocAuc, statistics: Sequence[Statistic]) -> Tensor:
    def area(true: Floats, false: Floats) -> float:
        # Rows of one score are one straight piece of the curve: pairs among them count half.
        heights = true[:-1] + true[1:]
        return float(np.diff(false) @ heights / 2 / (true[-1] * false[-1]))

    return _without_each_sorted(statistics, area, needs_both=True)


@without_each.register
def _(score: AveragePrecision, statistics: Sequence[Statistic]) -> Tensor:
    def area(true: Floats, false: Floats) -> float:
        found, all_rows = true[1:], true[1:] + false[1:]
        precision = np.divide(found, all_rows, out=np.zeros_like(found), where=all_rows > 0)
        return float(np.diff(true) @ precision / true[-1])

    return _without_each_sorted(statistics, area, needs_both=False)


def _without_each_sorted(statistics: Sequence[Statistic], area: Area, needs_both: bool) -> Tensor:
    """The mean area over labels without each task: sorted once, where merging would sort T times.

    ``area``  from the weights of true and of false rows down to each threshold, each from 0 on.
    """
    predictions, targets, weights = (
        torch.cat([s[name] for s in statistics]).double().numpy()
        for name in ("predictions", "targets", "weights")
    )
    task_of = np.repeat(np.arange(len(statistics)), [len(s["weights"]) for s in statistics])
    areas = np.full((len(statistics), predictions.shape[1]), np.nan)
    for label in range(predictions.shape[1]):
        _, threshold = np.unique(-predictions[:, label], return_inverse=True)
        true, false = (weights * (targets[:, label] == value) for value in (1, 0))
        total = [_down_to_each(threshold, rows, threshold.max() + 1) for rows in (true, false)]
        for task in range(len(statistics)):
            own = task_of == task
            left = [
                curve - _down_to_each(threshold[own], rows[own], len(curve) - 1)
                for curve, rows in zip(total, (true, false), strict=True)
            ]
            if left[0][-1] > 0 and (left[1][-1] > 0 or not needs_both):
                areas[task, label] = area(*left)
    return torch.from_numpy(areas).nanmean(1)


def _down_to_each(threshold: NDArray[np.int64], rows: Floats, thresholds: int) -> Floats:
    """(thresholds + 1,): the weight of rows above and down to each threshold, from 0 on."""
    return np.concatenate([[0.0], np.bincount(threshold, rows, thresholds).cumsum()])
