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

        r_s       the mean over tasks of training s, less the mean
        q_sc      the sum over the tasks with class c of (score - mean) / T
        u         weights of the trainings: S - 1 draws of S, so that the variance has no bias
        w         weights of the classes: C - 1 draws of C, with mean 1
        theta*    sum_s u_s (r_s + sum_c (w_c - 1) q_sc)
        V         Var* theta* - (K - 1) s^2 / T       K = sum_t m_t (C - m_t) / ((C - 1) T)
        half      t sqrt(max(V, s^2 / T, Var* sum_s u_s r_s))

    where task t has m_t of the C classes, and s^2 is the variance over tasks of scores averaged
    over trainings. A task weighs 1 + sum of (w_c - 1) over its classes. This is the part of the
    product of their weights that is linear in them: the product itself has the same variance with
    many classes, but leaves out nine tasks of ten at 5 ways. The mean of their weights would make
    the interval m times too narrow. K s^2 / T is what the chance in T tasks adds to Var* theta*;
    once is right. Since theta* is bilinear in u and w, Var* is known exactly, as of endlessly many
    resamples, and nothing is drawn. Student's t has Satterthwaite's degrees of freedom from
    S - 1 and C - 1.

    ``scores``   (trainings, tasks).
    ``classes``  of each task; None where they are not known. Then tasks are resampled in their
                 place where ``named`` is False, since the source does not name classes.

    Not known with fewer than 3 trainings or 10 classes, or where a class is in every task.

    Reference: Owen (2007), The pigeonhole bootstrap, for the two levels: it counts what is peculiar
    to a training and a class more than once, so it errs on the wide side.
    """
    trainings, tasks = scores.shape
    if trainings < LEAST_TRAININGS:
        few = "is" if trainings == 1 else "are"
        return OverTrainings(
            None, f"{count(trainings, 'training')} {few} too few, {LEAST_TRAININGS} are needed"
        )
    if classes is None and named:
        return OverTrainings(None, "it was not kept which classes each task has; evaluate again")
    members = np.eye(tasks) if classes is None else classes.membership.numpy()
    units = members.shape[1]
    over = f"{count(trainings, 'training')} and " + (
        f"{count(tasks, 'task')}, whose classes have no names"
        if classes is None
        else count(units, "class", "classes")
    )
    if classes is not None and units < LEAST_CLASSES:
        few = "is" if units == 1 else "are"
        return OverTrainings(
            None,
            f"{count(units, 'class', 'classes')} {few} too few, {LEAST_CLASSES} are needed",
        )
    if classes is not None and bool((members.sum(0) == tasks).any()):
        return OverTrainings(None, "tasks without each of the classes are needed")
    variance, freedom = _variance(scores, members)
    half = quantile(freedom) * math.sqrt(variance)
    return OverTrainings(Interval(mean - half, mean + half), over)


def _variance(scores: Floats, members: Floats) -> tuple[float, float]:
    """The variance of the mean, and its degrees of freedom."""
    (trainings, tasks), units = scores.shape, members.shape[1]
    centred = scores - scores.mean()
    r = centred.mean(1)
    q = centred @ members / tasks
    q = q - q.mean(1, keepdims=True)
    of_classes = units / (units - 1) * q @ q.T
    of_draws = (np.eye(trainings) - 1 / trainings) / (trainings * (trainings - 1))
    by_trainings = float(r @ of_draws @ r)
    bootstrap = by_trainings + float(of_classes.mean() + (of_classes * of_draws).sum())
    own = members.sum(1)
    over_tasks = float(centred.mean(0).var(ddof=1)) / tasks
    times = float((own * (units - own)).sum()) / ((units - 1) * tasks)
    variance = max(bootstrap - (times - 1) * over_tasks, over_tasks, by_trainings)
    rest = variance - by_trainings
    if not variance:
        return 0.0, units - 1
    freedom = variance**2 / (by_trainings**2 / (trainings - 1) + rest**2 / (units - 1))
    return variance, freedom
