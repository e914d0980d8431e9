"""The law of unknown elements: an unknown element of a target counts as absent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.actions import Actions
from quickstudy.answers.boxes import Boxes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.known import unknown_value
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.contract.compare import compare, predicted
from quickstudy.core import Examples, Learner, Task


def unknown_element_is_absent(learner: Learner, task: Task) -> None:
    """A support row without known elements counts as absent; splitting a row into two copies, each
    with one half of its known targets, changes nothing."""
    task = _allow_missing(task)
    answer, support = task.spec.answer, task.support
    if isinstance(answer, Actions | Boxes):
        return  # their rows cannot be known in part
    unlabelled = _hide(map_tree(lambda leaf: leaf[:2], task.query), torch.ones(()))
    compare(
        predicted(learner, support, task),
        predicted(learner, concatenate(support, unlabelled), task),
        "a support row without a known element must count as absent",
        "Give it weight 0 before adapting: tasks.examples.labelled does.",
    )
    if answer.known(support.targets).ndim == 1 or rows_see_one_another(learner):
        return  # one element per row, or batch statistics count the split row twice
    first = _first_half(answer.known(support.targets))
    halves = [_hide(support, part) for part in (first, ~first)]
    compare(
        predicted(learner, support, task), predicted(learner, concatenate(*halves), task),
        "an unknown element of a row must count as absent",
        "Weight every element of the targets by Answer.known, not every row.",
    )  # fmt: skip


def _allow_missing(task: Task) -> Task:
    """The task with ``missing=True`` for real targets."""
    answer = task.spec.answer
    if isinstance(answer, Reals) and not answer.missing:
        return task._replace(spec=replace(task.spec, answer=replace(answer, missing=True)))
    return task


def _first_half(known: Tensor) -> Tensor:
    """True for the first half of each row's elements."""
    index = torch.arange(known[0].numel(), device=known.device)
    return (index < index.numel() / 2).reshape(known[0].shape).expand(known.shape)


def _hide(rows: Examples, where: Tensor) -> Examples:
    """``rows`` with their targets unknown where ``where`` is true."""

    def hide(leaf: Tensor) -> Tensor:
        return torch.where(where.bool(), torch.full_like(leaf, unknown_value(leaf)), leaf)

    targets: Any = map_tree(hide, rows.targets)
    return rows._replace(targets=targets)
