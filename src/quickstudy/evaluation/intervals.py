"""Confidence intervals of a mean over tasks."""

from __future__ import annotations

import math

from torch import Tensor


def half_width(scores: Tensor, confidence: float = 0.95) -> float:
    """Half the width of Student's t interval for the mean of ``scores`` (tasks,)."""
    from scipy.special import stdtrit  # here, because importing scipy is slow

    n = len(scores)
    if n < 2:
        return math.inf
    spread = float(scores.double().std()) / math.sqrt(n)
    return float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread
