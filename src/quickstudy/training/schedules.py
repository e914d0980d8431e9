"""Schedules of the outer learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""A function: progress of training in [0, 1] -> factor on the learning rate."""


def constant(progress: float) -> float:
    """A constant learning rate."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0, linearly."""
    return 1 - progress


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter, 2017, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2
