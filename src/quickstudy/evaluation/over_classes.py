"""How well a mean over tasks is known for *other classes*, not only for other tasks of the same.

Tasks that are drawn from a few classes share these classes, so their scores are not independent:
the interval over tasks becomes arbitrarily narrow with more tasks, although nothing more is known
about other classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from quickstudy.base.words import count
from quickstudy.core import TaskSource
from quickstudy.evaluation.intervals import half_width, quantile
from quickstudy.tasks.numbering import Stream, generator, task_seed

LEAST_CLASSES = 10
"""Fewest classes for an interval over classes; benchmarks/class_intervals.py measures coverage."""


@runtime_checkable
class NamesClasses(Protocol):
    """A task source that knows the classes of its tasks, as :func:`quickstudy.episodes` does."""

    def names(self, generator: torch.Generator) -> Sequence[str]:
        """The names of the classes of the task that this generator state gives, by class id."""


def class_names(source: TaskSource, seed: int, index: int, stream: Stream) -> frozenset[str] | None:
    """The classes of task ``index``; None for a source that does not name them."""
    if not isinstance(source, NamesClasses):
        return None
    return frozenset(source.names(generator(task_seed(seed, index, stream))))


@dataclass(frozen=True)
class OverClasses:
    """The classes of the tasks of a result.

    ``count``       the number of different classes.
    ``half_width``  half the 95% interval of the mean over classes; infinite for fewer than
                    :data:`LEAST_CLASSES`, where it would not cover what it says, and where a class
                    is in every task.
    """

    count: int
    half_width: float

    @property
    def known(self) -> bool:
        """Whether there is an interval over classes."""
        return math.isfinite(self.half_width)

    def remark(self, figure: str) -> str:
        """What the interval over tasks leaves out, or the ``figure`` of the mean over classes."""
        if self.known:
            return f"{figure} for other classes (95% CI, {self.count} classes)"
        why = f"{self.count} {'is' if self.count == 1 else 'are'} too few"
        if self.count >= LEAST_CLASSES:
            why = "tasks without each of them are needed"
        return (
            f"the interval covers other tasks from the same rows of these "
            f"{count(self.count, 'class', 'classes')}, not other classes: {why} for that"
        )


def over_classes(values: Tensor, names: Sequence[frozenset[str]]) -> OverClasses:
    """The interval of the mean of ``values`` (tasks,) over classes, by leaving each class out.

        mean_c  the mean over the tasks without class c
        V       (C - 1) / C sum_c (mean_c - their mean)^2      the jackknife over C classes
        N       (C - 1) / C s^2 sum_c T_c / (T (T - T_c))      of V, what T tasks are too few for
        half    t_(C - 1) sqrt(max(V - N + s^2 / T, s^2 / T)), at least t_(T - 1) sqrt(s^2 / T)

    with s^2 the variance of ``values`` over T tasks, T_c the number of tasks with class c. A mean
    over tasks is an (incomplete) U-statistic of the classes, of which the jackknife estimates the
    variance (Arvesen, 1969, Jackknifing U-statistics). Tasks without a value are left out.
    """
    kept = [i for i, value in enumerate(values.tolist()) if not math.isnan(value)]
    scores = values[kept].double()
    counts: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for score, i in zip(scores.tolist(), kept, strict=True):
        counts.update(names[i])
        totals.update(dict.fromkeys(names[i], score))
    classes, tasks = len(counts), len(kept)
    having = torch.tensor([counts[name] for name in counts], dtype=torch.float64)
    if classes < LEAST_CLASSES or bool((having == tasks).any()):
        return OverClasses(classes, math.inf)
    sums = torch.tensor([totals[name] for name in counts], dtype=torch.float64)
    without = (scores.sum() - sums) / (tasks - having)
    share, variance = (classes - 1) / classes, scores.var()
    jackknife = share * (without - without.mean()).square().sum()
    noise = share * variance * (having / (tasks * (tasks - having))).sum()
    over_tasks = variance / tasks
    total = float(torch.maximum(jackknife - noise + over_tasks, over_tasks))
    half = quantile(classes - 1) * math.sqrt(total)
    return OverClasses(classes, max(half, half_width(scores)))
