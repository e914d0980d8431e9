"""Refusing to compare results that are not of the same tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quickstudy.base.shown import shown
from quickstudy.base.words import count
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation


def same_results(who: str, results: Mapping[str, Sequence[Result]]) -> None:
    """ValueError unless these results, by learner, one for each training, can be paired by task.

    They must have one score in one unit, at least 2 tasks, as many in each, of the same classes,
    and a score on every task.
    """
    for name, of_learner in results.items():
        if not of_learner:
            raise ValueError(
                f"{who}: each learner needs a result for each training; found none of {name}. "
                "Leave it out."
            )
    every = [(name, result) for name, of_learner in results.items() for result in of_learner]
    (first, reference), *others = every
    for name, result in others:
        for what, one, other in (
            ("score", reference.label, result.label),
            ("unit", reference.unit, result.unit),
            ("number of tasks", reference.tasks, result.tasks),
        ):
            if one != other:
                raise ValueError(
                    f"{who}: all results must have one {what}; found {shown(one)} for {first} and "
                    f"{shown(other)} for {name}. Evaluate both on the same tasks."
                )
        if _differ(reference, result):
            raise ValueError(
                f"{who}: all results must be of the same tasks; found tasks of other classes for "
                f"{first} than for {name}. Evaluate both with the same source and seed."
            )
    if reference.tasks < 2:
        raise ValueError(
            f"{who}: an interval needs at least 2 tasks; found {count(reference.tasks, 'task')}. "
            "Evaluate on more tasks."
        )
    for name, result in every:
        for task, finite in enumerate(result.values.isfinite().tolist()):
            if not finite:
                raise ValueError(
                    f"{who}: every task needs a score of every learner; found "
                    f"{float(result.values[task])} for {name} on task {task} (counted from 0). "
                    "Leave the learner out, or compare by a score that every task has."
                )


def same_evaluations(who: str, evaluations: Mapping[str, Sequence[Evaluation]]) -> None:
    """ValueError unless these evaluations, by learner, one for each training, can be compared.

    They must be of tasks with one fingerprint, and all inductive or all transductive.
    """
    every = [(name, each) for name, of_learner in evaluations.items() for each in of_learner]
    for name, found in every[1:]:
        first, reference = every[0]
        if found.fingerprint != reference.fingerprint:
            raise ValueError(
                f"{who}: learners are compared on the same tasks; found the fingerprint "
                f"{shown(reference.fingerprint)} for {first} and {shown(found.fingerprint)} for "
                f"{name}. Evaluate both with the same source, seed and number of tasks."
            )
        if found.protocol != reference.protocol:
            raise ValueError(
                f"{who}: transductive results solve an easier problem than inductive ones; found "
                f"{first} {reference.protocol} and {name} {found.protocol}. Make two tables."
            )


def _differ(one: Result, other: Result) -> bool:
    both_known = one.task_classes is not None and other.task_classes is not None
    return both_known and one.task_classes != other.task_classes
