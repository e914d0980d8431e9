"""Budgets of training: the same steps for every learner, or the same minutes of CPU time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from quickstudy.base.shown import shown

PILOT_SECONDS = 2.0
"""CPU seconds of training by which the time of a step is measured, at least."""

PILOT_STEPS = 3
"""Steps of a pilot, at least, after the first one, which also sets things up."""


@dataclass(frozen=True)
class Minutes:
    """So many minutes of CPU time for each training, of all cores together.

    The time of a step is measured in a short pilot, and the number of steps follows from it.

    Raises ValueError for anything but a positive number.
    """

    minutes: float

    def __post_init__(self) -> None:
        value = self.minutes
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"compare: minutes must be a number; found {shown(value)}.")
        if not 0 < value < math.inf:
            raise ValueError(
                f"compare: minutes must be more than 0; found {shown(value)}. Give for example 2 "
                "for two minutes of CPU time for each training."
            )

    def steps(self, seconds_per_step: float) -> int:
        """So many steps fit, to two digits, at least 1."""
        steps = max(1, int(60 * self.minutes / seconds_per_step))
        digits = int(10 ** max(0, len(str(steps)) - 2))
        return steps // digits * digits


class _Enough(Exception):
    """The pilot has measured enough."""


def seconds_per_step(train: Callable[[Callable[[object], object]], object]) -> float:
    """CPU seconds of an optimiser step, from a short pilot.

    ``train``  trains a new learner for many steps, and calls its argument after each.
    """
    times: list[float] = []

    def on_step(step: object) -> None:
        times.append(time.process_time())
        if len(times) > PILOT_STEPS and times[-1] - times[0] > PILOT_SECONDS:
            raise _Enough

    with suppress(_Enough):
        train(on_step)
    if len(times) < 2:
        raise ValueError("compare: a pilot needs at least 2 steps; found fewer.")
    return max(1e-9, (times[-1] - times[0]) / (len(times) - 1))
