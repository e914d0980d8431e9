"""Validating the values of a stack of tasks once, before it is copied to the learner's device.

Reading a value from a GPU synchronises: the host waits for all queued operators. So the values are
checked before the copy, and the result is passed along with the stack.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.func import vmap

from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Answer, Examples, Task, check_support
from quickstudy.tasks.stacks import unstack


class Inspection(NamedTuple):
    """What :func:`inspect_stack` found.

    ``uniform``  whether all weights are 1, all elements of targets known, and all classes of the
                 queries in the support set: losses and statistics are then plain means.
    """

    uniform: bool


def inspect_stack(stack: Task) -> Inspection:
    """Check targets and weights of a stack of tasks (tasks, rows, ...).

    Raises ValueError for tasks without support rows, and for targets whose shape, type or values
    do not fit the answer.
    """
    support, query, spec = stack
    if support.weights.shape[1] == 0:
        check_support(unstack(stack)[0].support, spec.answer)  # raises the error
    for what, part in (("support", support), ("query", query)):
        spec.answer.check(_of_first_task(part.targets), what)
        if part.weights.shape[1]:
            spec.answer.check_values(part.targets, what)
    return Inspection(_is_uniform(support, query, spec.answer))


def _of_first_task(tree: Any) -> Any:
    """Shapes and types are the same for all tasks of a stack, so that the first stands for all."""
    return map_tree(lambda leaf: leaf[0], tree)


def _is_uniform(support: Examples, query: Examples, answer: Answer) -> bool:
    if not query.weights.shape[1]:
        return False
    for part in (support, query):
        if not torch.equal(part.weights, torch.ones_like(part.weights)):
            return False
        if not answer.known(part.targets).all():
            return False
    return _queries_only_present_classes(support, query, answer)


def _queries_only_present_classes(support: Examples, query: Examples, answer: Answer) -> bool:
    """Whether every class of the queries occurs in the support set of the same task."""
    if answer.present(_of_first_task(support.targets), support.weights[0]) is None:
        return True
    present = vmap(answer.present)(support.targets, support.weights)
    hidden = vmap(answer.hide_absent)(query.targets, present)
    pairs = zip(leaves(hidden), leaves(query.targets), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
