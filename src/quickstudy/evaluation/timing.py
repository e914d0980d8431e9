"""The time that a learner takes to adapt."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from quickstudy.base.modules import device_of
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.evaluation.results import Evaluation
from quickstudy.tasks.acting import needs_acting
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.tasks.stacks import to_device


def seconds_per_adaptation(learner: Learner, tasks: Sequence[Task]) -> float:
    """Median time of adapting to a task; tasks made by acting are left out; NaN if none remain."""

    def timed() -> Iterator[float]:
        for task in tasks:
            if needs_acting(task):
                continue
            support = to_device(task, device_of(learner)).support
            start = time.perf_counter()
            with torch.no_grad():
                learner.adapt(support, task.spec)
            if support.weights.is_cuda:
                torch.cuda.synchronize()
            yield time.perf_counter() - start

    times = sorted(timed())
    return times[len(times) // 2] if times else math.nan


def timed_on(source: TaskSource, seed: int, learner: Learner, evaluation: Evaluation) -> Evaluation:
    """``evaluation``, made by features, with the time of ``learner`` on the first task of
    ``source``, whose inputs are as they come."""
    task = draw(source, seed, 0, Stream.TEST)
    return replace(evaluation, seconds_per_adaptation=seconds_per_adaptation(learner, [task]))
