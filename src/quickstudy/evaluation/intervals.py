"""Confidence intervals for a mean over tasks."""

from __future__ import annotations

import math

from torch import Tensor


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
