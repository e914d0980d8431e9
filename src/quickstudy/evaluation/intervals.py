"""Confidence intervals for a mean over tasks."""

from __future__ import annotations

import math

from torch import Tensor


def half_width(scores: Tensor, confidence: float = 0.95) -> float:
    """Half the width of Student's t interval of the mean of ``scores`` (tasks,); inf for n < 2."""
    from scipy.special import stdtrit  # imported here, since importing scipy is slow

    n = len(scores)
    if n < 2:
        return math.inf
    standard_error = float(scores.double().std()) / math.sqrt(n)
    return float(stdtrit(n - 1, 0.5 + confidence / 2)) * standard_error


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share, by Wilson's score (1927), for ``count`` of ``total`` rows.

    Unlike the interval of a mean, it has a width even where all rows or none are counted.
    """
    from scipy.stats import binomtest  # imported here, since importing scipy is slow

    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
