"""How well a mean is known for *other trainings and other classes*.

Another training of the same learner ends in other weights, and other classes are easier or harder.
An interval over the tasks of one training knows of neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.base.words import count
from quickstudy.evaluation.intervals import Interval, quantile
from quickstudy.evaluation.over_classes import LEAST_CLASSES
from quickstudy.evaluation.task_classes import TaskClasses

LEAST_TRAININGS = 3
"""Fewest trainings for an interval over them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OverTrainings:
    """The interval over other trainings and other classes.

    ``interval``  None where it is not known.
    ``over``      what was resampled ("3 trainings and 20 classes"), or why nothing was.
    ``p``         the two-sided p-value of Student's t that the mean is 0; NaN where not known.
    """

    interval: Interval | None
    over: str
    p: float = math.nan


class Members(NamedTuple):
    """Which tasks have which units, the classes or tasks that are resampled.

    ``task``, ``unit``  (n,), (n,): a task and a unit of it, for all of them.
    ``units``           their number.
    """

    task: NDArray[np.int64]
    unit: NDArray[np.int64]
    units: int


def over_trainings(
    parts: Sequence[Floats], classes: TaskClasses | None, named: bool
) -> OverTrainings:
    """The 95% interval by a two-level bootstrap: trainings, then classes.

    It is that of the mean score of one learner, or of the sum of the means of ``parts``: the second
    of two learners has a part with negative scores. Each learner's trainings are resampled on their
    own, since they are independent; both learners share the classes.

    With r_s the mean over tasks of training s less the mean, and q_sc the sum of (score - mean) / T
    over the tasks with class c, a resample of one learner is

        theta*  = sum_s u_s (r_s + sum_c (w_c - 1) q_sc)

        u_s     how often training s is drawn in S - 1 draws, / (S - 1)
        w_c     how often class c is drawn in C - 1 draws, x C / (C - 1)

    A draw less than there are makes the variances unbiased. A task has the weight 1 + sum of
    (w_c - 1) over its m classes: the part of the product of w_c that is linear in them. The product
    itself has the same variance with many classes, but gives most tasks of 5 ways no weight, and
    with their mean the interval would be m times too narrow. As u and w are independent, Var* is
    known exactly, that of endlessly many resamples, so none is drawn:

        of trainings  Var* sum_s u_s r_s
        of classes    Var* sum_c (w_c - 1) mean_s q_sc     less (K - 1) s^2 / T
        of both       Var* theta* less these two           less (K - 1) e^2 / (S T), 0 or more
        V             of trainings + of classes - of both, at least s^2 / T and "of trainings"
        half          sqrt(V) t

    "Of both" is what a class is in one training and not in others. The first two contain it
    already, so the plain bootstrap, their sum with it, counts it thrice (Owen, 2007), and covers 98
    to 100%. s^2 is the variance over tasks of the means over trainings, e^2 that of what is
    neither the task's nor the training's; K = sum_t m_t (C - m_t) / ((C - 1) T) is how often each
    resampling of classes counts it. Student's t has Satterthwaite's degrees of freedom, from C - 1
    and the S - 1 of each learner. Coverage: benchmarks/verdicts.py.

    ``parts``    (trainings, tasks) of each learner.
    ``classes``  of each task; None where they are not known. Then tasks are resampled in their
                 place where ``named`` is False, since the source does not name classes.

    Not known with fewer than 3 trainings or 10 classes, or where a class is in every task.

    Reference: Owen (2007), The pigeonhole bootstrap.
    """
    trainings, tasks = min(len(part) for part in parts), parts[0].shape[1]
    members = Members(np.arange(tasks), np.arange(tasks), tasks)
    if classes is not None:
        members = Members(*classes.pairs, len(classes.names))
    units = members.units
    why = ""
    if trainings < LEAST_TRAININGS:
        why = _too_few(trainings, "training", "trainings", LEAST_TRAININGS)
    elif classes is None and named:
        why = "it was not kept which classes each task has; evaluate again"
    elif classes is not None and units < LEAST_CLASSES:
        why = _too_few(units, "class", "classes", LEAST_CLASSES)
    elif classes is not None and bool((np.bincount(members.unit) == tasks).any()):
        why = "tasks without each of the classes are needed"
    if why:
        return OverTrainings(None, why)
    resampled = count(units, "class", "classes")
    if classes is None:
        resampled = f"{count(tasks, 'task')}, whose classes have no names"
    variance, freedom = variance_of_mean(parts, members)
    mean, error = float(sum(part.mean() for part in parts)), math.sqrt(variance)
    half = quantile(freedom) * error
    return OverTrainings(
        Interval(mean - half, mean + half),
        f"{count(trainings, 'training')} and {resampled}",
        p_of_mean(mean, error, freedom),
    )


def _too_few(number: int, one: str, many: str, needed: int) -> str:
    return (
        f"{count(number, one, many)} {'is' if number == 1 else 'are'} too few, {needed} are needed"
    )


def p_of_mean(mean: float, error: float, freedom: float) -> float:
    """The two-sided p-value of Student's t that a mean with this standard error is 0."""
    from scipy.special import stdtr

    if not error:
        return 0.0 if mean else 1.0
    return 2 * float(stdtr(freedom, -abs(mean) / error))


def variance_of_mean(parts: Sequence[Floats], members: Members) -> tuple[float, float]:
    """The variance of the sum of the means of ``parts`` (S, T), and its degrees of freedom."""
    tasks, units = parts[0].shape[1], members.units
    own = np.bincount(members.task, minlength=tasks)
    again = float((own * (units - own)).sum()) / ((units - 1) * tasks) - 1  # K - 1
    of_tasks = sum(part.mean(0) - part.mean() for part in parts)
    of_each_task = float(np.var(of_tasks, ddof=1)) / tasks
    by_classes = _over_classes(of_tasks[None], members).item() - again * of_each_task
    by_trainings, by_both = [], 0.0
    for part in parts:
        trainings = len(part)
        r = part.mean(1) - part.mean()
        residual = part - part.mean(1, keepdims=True) - part.mean(0) + part.mean()
        by_trainings.append(float(r @ r) / (trainings * (trainings - 1)))
        draws = (np.eye(trainings) - 1 / trainings) / (trainings * (trainings - 1))  # Cov* of u
        freedom = (trainings - 1) * (tasks - 1)
        of_each_score = float(np.square(residual).sum()) / freedom / (trainings * tasks)
        both = float((_over_classes(residual, members) * draws).sum())
        by_both += max(0.0, both - again * of_each_score)
    of_trainings = sum(by_trainings)
    variance = max(of_trainings + by_classes - by_both, of_each_task, of_trainings)
    if not variance:
        return 0.0, units - 1
    uncertain = (variance - of_trainings) ** 2 / (units - 1)
    uncertain += sum(v**2 / (len(part) - 1) for v, part in zip(by_trainings, parts, strict=True))
    return variance, variance**2 / uncertain


def _over_classes(centred: Floats, members: Members) -> Floats:
    """(S, S): Var* and Cov* over w of sum_c (w_c - 1) q_sc, for scores (S, T) less their mean."""
    tasks, units = centred.shape[1], members.units
    q = np.stack([np.bincount(members.unit, row[members.task], units) for row in centred]) / tasks
    q -= q.mean(1, keepdims=True)
    found: Floats = units / (units - 1) * q @ q.T
    return found
