"""The jackknife: confidence intervals for pooled scores (Quenouille, 1956; Tukey, 1958).

A pooled score is one number for all tasks, without a variance over tasks. Its T pseudo-values
T theta - (T - 1) theta_without_i are used like values of single tasks.
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
    """(tasks,) pseudo-values of the ``pooled`` score; NaN where the score without
    a task is NaN. A single task has the pooled score as its value.
    """
    tasks = len(statistics)
    if tasks == 1:
        return pooled.reshape(1)
    return tasks * pooled - (tasks - 1) * without_each(score, statistics)


@singledispatch
def without_each(score: Score, statistics: Sequence[Statistic]) -> Tensor:
    """(tasks,): the pooled scores without the first task, without the second, …"""
    return torch.stack(_without_each(score, statistics, []))


def _without_each(
    score: Score, statistics: Sequence[Statistic], others: list[Statistic]
) -> list[Tensor]:
    """Recursive halving: needs T log T merges instead of T².

    ``others``  the merged statistic of all tasks not in ``statistics``, in a list; [] for none.
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
        # Rows with equal scores form one straight segment of the curve: such pairs count half.
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
    """The mean area over labels without each task; sorts rows once instead of T times.

    ``area``        maps cumulative weights of true and false rows, by threshold, to the area.
    ``needs_both``  whether the area needs true and false rows, or only true ones.
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
        total = [
            _cumulative_weights(threshold, rows, threshold.max() + 1) for rows in (true, false)
        ]
        for task in range(len(statistics)):
            mine = task_of == task
            rest = [
                curve - _cumulative_weights(threshold[mine], rows[mine], len(curve) - 1)
                for curve, rows in zip(total, (true, false), strict=True)
            ]
            if rest[0][-1] > 0 and (rest[1][-1] > 0 or not needs_both):
                areas[task, label] = area(*rest)
    return torch.from_numpy(areas).nanmean(1)


def _cumulative_weights(threshold: NDArray[np.int64], rows: Floats, thresholds: int) -> Floats:
    """(thresholds + 1,): the total weight of rows at or above each threshold, starting with 0."""
    return np.concatenate([[0.0], np.bincount(threshold, rows, thresholds).cumsum()])
