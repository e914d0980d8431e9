"""Confidence intervals for a mean over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from quickstudy.evaluation.strict_json import number, plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 4000
"""Of the bootstrap."""

FEW_TASKS = 40
"""With fewer tasks, intervals of means are Student's t: of 20 normal differences, BCa covers the
mean in 92.5%, and t in 94.3%."""

_NUMBERS = 4_000_000  # in memory at once


def half_width(scores: Tensor, confidence: float = 0.95) -> float:
    """Half the width of Student's t interval of the mean of ``scores`` (tasks,); inf for n < 2."""
    n = len(scores)
    if n < 2:
        return math.inf
    standard_error = float(scores.double().std()) / math.sqrt(n)
    return quantile(n - 1, confidence) * standard_error


def quantile(degrees: float, confidence: float = 0.95) -> float:
    """Student's t below which (1 + confidence) / 2 of a variable lie, with these degrees of
    freedom: the half-width of an interval in standard errors."""
    from scipy.special import stdtrit  # imported here, since importing scipy is slow

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share, by Wilson's score (1927), for ``count`` of ``total`` rows.

    Unlike the interval of a mean, it has a width even where all rows or none are counted.
    """
    from scipy.stats import binomtest  # imported here, since importing scipy is slow

    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, both included; infinite ends where nothing is known."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def known(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def within(self, margin: float) -> bool:
        """Whether all of it lies between -margin and margin."""
        return -margin <= self.low and self.high <= margin

    def clipped(self, low: float, high: float) -> Interval:
        """What of it lies between ``low`` and ``high``; nothing known stays so."""
        if not self.known:
            return self
        return Interval(max(self.low, low), min(self.high, high))

    def to_json(self) -> list[Any]:
        """[low, high] as strict JSON."""
        return list(plain([self.low, self.high]))

    @staticmethod
    def from_json(values: Any) -> Interval:
        """What :meth:`to_json` gave."""
        low, high = number(values)
        return Interval(low, high)


def of_means(
    values: NDArray[np.float64], seed: int, levels: Sequence[float] = (0.05,)
) -> list[list[Interval]]:
    """Intervals of means over tasks by the BCa bootstrap: (..., tasks) -> for each row, by level.

    Each has a chance of about its level of missing the mean over all tasks that could be drawn.
    Tasks are resampled :data:`RESAMPLES` times, the same ones for every row. With fewer than
    :data:`FEW_TASKS` tasks it is Student's t interval. A row whose values are all equal has no
    width.

    Reference: Efron (1987), Better Bootstrap Confidence Intervals; ``scipy.stats.bootstrap``.
    """
    import numpy as np

    rows, tasks = values.reshape(-1, values.shape[-1]), values.shape[-1]
    means, constant = rows.mean(1), np.ptp(rows, axis=1) == 0
    found = []
    for level in levels:
        if tasks < FEW_TASKS:
            half = quantile(tasks - 1, 1 - level) * rows.std(1, ddof=1) / math.sqrt(tasks)
            found.append(np.stack([means - half, means + half], 1))
        else:
            found.append(np.stack([means, means], 1))
    if tasks >= FEW_TASKS and not constant.all():
        for ends, of_level in zip(found, _bca(rows[~constant], seed, levels), strict=True):
            ends[~constant] = of_level
    return [[Interval(*map(float, ends[i])) for ends in found] for i in range(len(rows))]


def _bca(
    rows: NDArray[np.float64], seed: int, levels: Sequence[float]
) -> list[NDArray[np.float64]]:
    """(rows, 2) for each level."""
    import numpy as np
    from scipy.stats import bootstrap

    result, found = None, []
    for level in levels:
        result = bootstrap(
            (rows,), np.mean, axis=-1, confidence_level=1 - level, method="BCa",
            n_resamples=RESAMPLES if result is None else 0, bootstrap_result=result,
            batch=max(1, _NUMBERS // rows.size), rng=np.random.default_rng(seed),
        )  # fmt: skip
        interval = result.confidence_interval
        found.append(np.stack([interval.low, interval.high], 1))
    return found
