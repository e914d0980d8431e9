"""How well a mean is known for *other trainings and other classes*.

Another training of the same learner ends in other weights, and other classes are easier or harder.
An interval over the tasks of one training knows of neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """

    interval: Interval | None
    over: str


def over_trainings(
    scores: Floats, classes: TaskClasses | None, named: bool, mean: float
) -> OverTrainings:
    """The 95% interval of ``mean`` by a two-level bootstrap: trainings, then classes.

    With r_s the mean over tasks of training s less the mean, and q_sc the sum of (score - mean) / T
    over the tasks with class c, a resample is

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
        half          sqrt(V) t, with Satterthwaite's degrees of freedom from S - 1 and C - 1

    "Of both" is what a class is in one training and not in others. The first two contain it
    already, so the plain bootstrap, their sum with it, counts it thrice (Owen, 2007), and covers 98
    to 100%. s^2 is the variance over tasks of the means over trainings, e^2 that of what is
    neither the task's nor the training's; K = sum_t m_t (C - m_t) / ((C - 1) T) is how often each
    resampling of classes counts it. Coverage: benchmarks/verdicts.py.

    ``scores``   (trainings, tasks).
    ``classes``  of each task; None where they are not known. Then tasks are resampled in their
                 place where ``named`` is False, since the source does not name classes.

    Not known with fewer than 3 trainings or 10 classes, or where a class is in every task.

    Reference: Owen (2007), The pigeonhole bootstrap.
    """
    trainings, tasks = scores.shape
    members = np.eye(tasks) if classes is None else classes.membership.numpy()
    units = members.shape[1]
    why = ""
    if trainings < LEAST_TRAININGS:
        why = _too_few(trainings, "training", "trainings", LEAST_TRAININGS)
    elif classes is None and named:
        why = "it was not kept which classes each task has; evaluate again"
    elif classes is not None and units < LEAST_CLASSES:
        why = _too_few(units, "class", "classes", LEAST_CLASSES)
    elif classes is not None and bool((members.sum(0) == tasks).any()):
        why = "tasks without each of the classes are needed"
    if why:
        return OverTrainings(None, why)
    resampled = count(units, "class", "classes")
    if classes is None:
        resampled = f"{count(tasks, 'task')}, whose classes have no names"
    variance, freedom = _variance(scores, members)
    half = quantile(freedom) * math.sqrt(variance)
    return OverTrainings(
        Interval(mean - half, mean + half), f"{count(trainings, 'training')} and {resampled}"
    )


def _too_few(number: int, one: str, many: str, needed: int) -> str:
    return (
        f"{count(number, one, many)} {'is' if number == 1 else 'are'} too few, {needed} are needed"
    )


def _variance(scores: Floats, members: Floats) -> tuple[float, float]:
    """The variance of the mean of ``scores`` (S, T), and its degrees of freedom.

    ``members``  (T, C): 1 where the task has the class.
    """
    (trainings, tasks), units = scores.shape, members.shape[1]
    centred = scores - scores.mean()
    r, of_tasks = centred.mean(1), centred.mean(0)
    q = centred @ members / tasks
    q -= q.mean(1, keepdims=True)
    over_classes = units / (units - 1) * q @ q.T  # (S, S): Var* and Cov* over w
    over_draws = (np.eye(trainings) - 1 / trainings) / (trainings * (trainings - 1))  # Cov* of u

    own = members.sum(1)
    again = float((own * (units - own)).sum()) / ((units - 1) * tasks) - 1  # K - 1
    of_each_task = float(of_tasks.var(ddof=1)) / tasks
    residual = centred - r[:, None] - of_tasks
    of_each_score = float(np.square(residual).sum()) / (
        (trainings - 1) * (tasks - 1) * trainings * tasks
    )

    by_trainings = float(r @ over_draws @ r)
    by_classes = float(over_classes.mean()) - again * of_each_task
    by_both = max(0.0, float((over_classes * over_draws).sum()) - again * of_each_score)
    variance = max(by_trainings + by_classes - by_both, of_each_task, by_trainings)
    if not variance:
        return 0.0, units - 1
    rest = variance - by_trainings
    freedom = variance**2 / (by_trainings**2 / (trainings - 1) + rest**2 / (units - 1))
    return variance, freedom
