"""Budgets of training: the same steps for every learner, or the same minutes of CPU time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from quickstudy.base.shown import shown
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.tasks.numbering import Stream

PILOT_SECONDS = 2.0
"""CPU seconds of training by which the time of a step is measured, at least."""

PILOT_STEPS = 3
"""Steps of a pilot, at least, after the first one, which also sets things up."""

VALIDATIONS, VALIDATION_TASKS = 4, 100
"""How often a training is validated, and on how many tasks each time."""

FOR_VALIDATION = 1 / 3
"""Share of the minutes that validation may take. A learner for which it would take more, such as
one of many steps in each task, is not validated, and keeps its last weights."""

PILOT_TASKS = 4
"""Validation tasks by which the time of one is measured, after one that also sets things up."""


class Pace(NamedTuple):
    """The steps of a training, and whether it is validated on the way."""

    steps: int
    validated: bool = True


def told(paces: Mapping[str, Pace]) -> dict[str, Any]:
    """The paces of all learners, for the settings of a comparison."""
    return {
        "steps": {name: pace.steps for name, pace in paces.items()},
        "not_validated": [name for name, pace in paces.items() if not pace.validated],
    }


@dataclass(frozen=True)
class Minutes:
    """So many minutes of CPU time for each training with its validation, of all cores together.

    The times of a step and of a validation task are measured in a short pilot, and the number of
    steps follows from them.

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

    def pace(self, seconds_per_step: float, seconds_per_task: float | None) -> Pace:
        """So many steps fit, to two digits, at least 1.

        ``seconds_per_task``  of validation; None where there is none.
        """
        seconds = 60 * self.minutes
        validation = VALIDATIONS * VALIDATION_TASKS * (seconds_per_task or 0.0)
        validated = seconds_per_task is not None and validation <= FOR_VALIDATION * seconds
        left = seconds - (validation if validated else 0.0)
        steps = max(1, int(left / seconds_per_step))
        digits = int(10 ** max(0, len(str(steps)) - 2))
        return Pace(steps // digits * digits, validated)


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


def seconds_per_task(learner: Learner, source: TaskSource) -> float:
    """CPU seconds of a validation task, measured on a few."""

    def tested(tasks: int) -> float:
        began = time.process_time()
        evaluate(learner, source, tasks, stream=Stream.VALIDATION, baselines=False)
        return time.process_time() - began

    tested(2)
    return tested(PILOT_TASKS) / PILOT_TASKS
