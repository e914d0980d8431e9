"""The law of joined answers: in a stack with wider tasks, a task is computed as if alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from quickstudy.answers.classes import Classes
from quickstudy.answers.pixels import Pixels
from quickstudy.answers.reals import Reals
from quickstudy.base.errors import BrokenLaw
from quickstudy.base.trees import map_tree
from quickstudy.base.words import count
from quickstudy.contract.compare import compare, predicted
from quickstudy.core import Answer, Examples, Learner, Task

_REMEDY = (
    "Give classes without a row in the support set no probability: "
    "tasks.examples.without_absent(logits, spec.answer.present(support.targets, support.weights))."
)


def joined_answer_changes_nothing(learner: Learner, task: Task) -> None:
    """Under the joined answer of a stack with wider tasks, predictions stay the same, and classes
    that the task does not have get no probability.

    A learner may refuse (ValueError) answers that it was not built for. If it refuses that of the
    task alone, only the absent classes are tested.
    """
    answer = task.spec.answer
    narrow = _narrower(answer)
    if narrow is None:
        narrow, wide = answer, _wider(answer)
    else:
        task, wide = _without_last_class(task, answer), answer
    joined = None if wide is None else narrow.join(wide)
    if joined is None or not len(task.support.weights):
        return  # the task is never in a stack with other answers, or nothing is left of it
    alone, stacked = (_under(learner, task, each) for each in (narrow, joined))
    if stacked is not None:
        _compare(alone, stacked, narrow, joined)


def _narrower(answer: Answer) -> Answer | None:
    """The answer with one class less; None where there is none."""
    if answer.outputs <= 2:
        return None
    if isinstance(answer, Classes):
        return replace(answer, ways=answer.ways - 1)
    return replace(answer, k=answer.k - 1) if isinstance(answer, Pixels) else None


def _wider(answer: Answer) -> Answer | None:
    """The answer with one class more, or of numbers that may be missing; None for others."""
    if isinstance(answer, Classes):
        return None if answer.ranked else replace(answer, ways=answer.ways + 1)
    if isinstance(answer, Pixels):
        return replace(answer, k=answer.k + 1)
    return replace(answer, missing=True) if isinstance(answer, Reals) else None


def _without_last_class(task: Task, answer: Answer) -> Task:
    """The task without rows, or pixels, of the last class."""

    def rest(rows: Examples) -> Examples:
        kept = torch.arange(answer.outputs, device=rows.weights.device) < answer.outputs - 1
        hidden = rows._replace(targets=answer.hide_absent(rows.targets, kept))
        left = answer.known(hidden.targets).reshape(len(rows.weights), -1).any(1)
        remaining: Examples = map_tree(lambda leaf: leaf[left], hidden)
        return remaining

    return task._replace(support=rest(task.support))


def _under(learner: Learner, task: Task, answer: Answer) -> Any:
    """Predictions for the task under ``answer``; None where the learner refuses it."""
    task = task._replace(spec=replace(task.spec, answer=answer))
    try:
        return predicted(learner, task.support, task)
    except ValueError:
        return None


def _compare(alone: Any, stacked: Any, narrow: Answer, joined: Answer) -> None:
    """BrokenLaw where predictions differ between the answers; ``alone`` may be None."""
    rule = f"a task of {narrow} must be computed the same in a stack of {joined}"
    if not isinstance(narrow, Classes | Pixels):
        if alone is not None:
            compare(alone, stacked, rule, "Use `missing` of the answer only to choose a method.")
        return
    if alone is None:
        alone = stacked[..., : narrow.outputs]
    for found, answer in ((alone, narrow), (stacked, joined)):
        if found.shape[-1] != answer.outputs:
            raise BrokenLaw(
                f"{rule}; found {count(found.shape[-1], 'output')} for "
                f"{count(answer.outputs, 'class', 'classes')}. Give "
                "spec.outputs, or raise ValueError for a spec of another number."
            )
    # If the task's own classes have all of the probability, the others have none.
    own, of_all = (each.log_softmax(-1)[..., : narrow.outputs] for each in (alone, stacked))
    compare(own, of_all, rule, _REMEDY)
