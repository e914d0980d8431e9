"""Scores of several divisions of the classes, each with its own training and its own test tasks.

Where classes are few, the test classes of one division are luck. Of several divisions every class
is tested in turn. Their tasks differ, so two trainings cannot be paired by task; two learners can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from quickstudy.evaluation.holm import holm
from quickstudy.evaluation.intervals import Interval, half_width
from quickstudy.evaluation.over_trainings import LEAST_TRAININGS, OverTrainings, p_of_mean
from quickstudy.evaluation.paired import Figures, Pair, figures, pairs
from quickstudy.evaluation.result import Result

Floats = NDArray[np.float64]


def figures_over_divisions(results: Sequence[Result], seed: int = 0) -> Figures:
    """The score of one learner: one result for each division.

    ``these`` is over tasks, for these trainings and the classes that each tested; ``others`` by
    Student's t over the divisions' means, where there are 3 or more. Training classes are shared by
    divisions, so their means are not quite independent.
    """
    found = figures([joined(results)], seed)
    other = over_divisions(_means(results))
    return replace(found, others=other.interval, others_over=other.over)


def pairs_over_divisions(
    results: Mapping[str, Sequence[Result]], matters: float, seed: int = 0
) -> tuple[Pair, ...]:
    """Every pair of learners, as :func:`.paired.pairs`: one result of each for each division, of
    the same tasks as that of the other learner."""
    found = pairs({name: [joined(each)] for name, each in results.items()}, matters, seed)
    sign = 1.0 if next(iter(results.values()))[0].higher_is_better else -1.0
    means = {name: sign * _means(each) for name, each in results.items()}
    others = [over_divisions(means[pair.first] - means[pair.second]) for pair in found]
    adjusted = holm([other.p for other in others])
    return tuple(
        replace(pair, others=other.interval, others_over=other.over, p_others=p)
        for pair, other, p in zip(found, others, adjusted, strict=True)
    )


def over_divisions(means: Floats) -> OverTrainings:
    """Student's t interval of the mean of ``means`` (divisions,); not known for fewer than 3."""
    n = len(means)
    if n < LEAST_TRAININGS:
        return OverTrainings(
            None, f"{n} divisions of the classes are too few, {LEAST_TRAININGS} are needed"
        )
    mean, half = float(means.mean()), half_width(torch.from_numpy(means))
    error = float(means.std(ddof=1)) / math.sqrt(n)
    return OverTrainings(
        Interval(mean - half, mean + half),
        f"{n} divisions of the classes, each with its own training",
        p_of_mean(mean, error, n - 1),
    )


def joined(results: Sequence[Result]) -> Result:
    """The tasks of all results as those of one, with its interval over tasks."""
    values = torch.cat([each.values for each in results])
    return replace(
        results[0],
        statistics=tuple(statistic for each in results for statistic in each.statistics),
        values=values,
        mean=float(values.nanmean()),
        half_width=half_width(values[~values.isnan()]),
        baselines=(),
        classes=None,
        rows=None,
        task_classes=None,
    )


def _means(results: Sequence[Result]) -> Floats:
    return np.array([each.mean for each in results])
