"""The law of unknown elements: what nobody knows is as good as absent, inside a row too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.actions import Actions
from quickstudy.answers.boxes import Boxes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.contract.compare import compare, predicted
from quickstudy.core import Examples, Learner, Task
from quickstudy.tasks.stacks import unknown_value


def unknown_element_is_absent(learner: Learner, task: Task) -> None:
    """A support row of which nothing is known counts as absent, and a row that is split in two,
    each of which knows one part of its targets, counts as the whole row."""
    task = _with_missing(task)
    answer, support = task.spec.answer, task.support
    if isinstance(answer, Actions | Boxes):
        return  # a step that was made, or a picture, is known as a whole
    unlabelled = _hidden(map_tree(lambda leaf: leaf[:2], task.query), torch.ones(()))
    compare(
        predicted(learner, support, task),
        predicted(learner, concatenate(support, unlabelled), task),
        "a support row of which nothing is known must count as absent",
        "Give it weight 0 before it is read: tasks.examples.labelled does.",
    )
    if answer.known(support.targets).ndim == 1 or rows_see_one_another(learner):
        return  # a row is one element; or statistics of rows would count the split row twice
    first = _first_half(answer.known(support.targets))
    halves = [_hidden(support, part) for part in (first, ~first)]
    compare(
        predicted(learner, support, task), predicted(learner, concatenate(*halves), task),
        "an element of a row that is not known must count as absent",
        "Weigh every element of the targets by Answer.known, not every row.",
    )  # fmt: skip


def _with_missing(task: Task) -> Task:
    """Real targets as ones of which some may be missing."""
    answer = task.spec.answer
    if isinstance(answer, Reals) and not answer.missing:
        return task._replace(spec=replace(task.spec, answer=Reals(answer.d, missing=True)))
    return task


def _first_half(known: Tensor) -> Tensor:
    """True for the first half of each row's elements."""
    places = torch.arange(known[0].numel(), device=known.device)
    return (places < places.numel() / 2).reshape(known[0].shape).expand(known.shape)


def _hidden(rows: Examples, where: Tensor) -> Examples:
    """``rows`` whose targets are unknown ``where`` that is true."""

    def hide(leaf: Tensor) -> Tensor:
        return torch.where(where.bool(), torch.full_like(leaf, unknown_value(leaf)), leaf)

    targets: Any = map_tree(hide, rows.targets)
    return rows._replace(targets=targets)
