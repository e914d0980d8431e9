"""Validating the values of a stack of tasks once, before it is copied to the learner's device.

Reading a value from a GPU synchronises: the host waits for all queued operators. So the values are
checked before the copy, and the result is passed along with the stack.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from quickstudy.base.door import check_not_empty
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Answer, Examples, Task


class Inspection(NamedTuple):
    """What :func:`inspect_stack` found.

    ``uniform``  whether all weights are 1, all elements of targets known, and all classes of the
                 queries in the support set: losses and statistics are then plain means.
    ``unlabelled``  places, in the stack, of the tasks whose queries have no known element.
    """

    uniform: bool
    unlabelled: tuple[int, ...] = ()


def inspect_stack(stack: Task) -> Inspection:
    """Check targets and weights of a stack of tasks (tasks, rows, ...).

    Raises ValueError for a support or query set without rows, for targets whose shape, type or
    values do not fit the answer, and for weights that are negative or not finite.
    """
    support, query, spec = stack
    all_one = True
    for what, part in (("support", support), ("query", query)):
        check_not_empty(part.weights.shape[1], what)
        spec.answer.check(_of_first_task(part.targets), what)
        spec.answer.check_values(part.targets, what)
        all_one = _check_weights(part.weights, what) and all_one
    if all_one and _is_uniform(support, query, spec.answer):
        return Inspection(True)
    return Inspection(False, _unlabelled(query, spec.answer))


def _unlabelled(query: Examples, answer: Answer) -> tuple[int, ...]:
    known = vmap(answer.known)(query.targets)
    known = known.flatten(2).any(2) if known.ndim > 2 else known
    counted = (known & (query.weights > 0)).any(1)
    return tuple((~counted).nonzero().flatten().tolist())


def _check_weights(weights: Tensor, what: str) -> bool:
    """Whether all are 1; ValueError for weights that are negative or not finite."""
    if torch.equal(weights, torch.ones_like(weights)):
        return True
    least, most = (float(bound) for bound in weights.aminmax())  # NaN if any weight is
    if not 0 <= least <= most < torch.inf:
        raise ValueError(
            f"{what}: weights must be non-negative, finite numbers; found a minimum of {least:g} "
            f"and a maximum of {most:g}. Give 0 to a row that must not count."
        )
    return False


def _of_first_task(tree: Any) -> Any:
    """Shapes and types are the same for all tasks of a stack, so that the first stands for all."""
    return map_tree(lambda leaf: leaf[0], tree)


def _is_uniform(support: Examples, query: Examples, answer: Answer) -> bool:
    """Whether rows that all have weight 1 are :class:`Inspection`'s ``uniform``."""
    for part in (support, query):
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
