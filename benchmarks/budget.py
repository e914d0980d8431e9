"""Equal budgets: how many training steps fit into a number of minutes of CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable


def steps_within(minutes: float, train: Callable[[int], object]) -> int:
    """Steps that take ``minutes`` of this process's CPU time, estimated by trials of rising length.

    ``train``  trains a copy for a number of steps, and discards it.
    """
    steps, times = 1, []
    # The first trial warms up, and two that differ by less than seconds differ by chance.
    while len(times) < 3 or (times[-1] - times[-2] < 4 and steps < 2000):
        steps *= 2
        began = time.process_time()
        train(steps)
        times.append(time.process_time() - began)
    each = (times[-1] - times[-2]) / (steps - steps // 2)  # excludes the time before the first step
    return max(1, int(minutes * 60 / each))
