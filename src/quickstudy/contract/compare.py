"""Comparing a learner's predictions with those that a law requires."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quickstudy.base.errors import BrokenLaw
from quickstudy.base.trees import leaves, map_tree, structure
from quickstudy.core import Examples, Learner, Task

_HUGE = 1e20


def predicted(learner: Learner, support: Examples, task: Task) -> Any:
    """The queries' predictions after adapting to ``support``."""
    with torch.no_grad():
        return learner(support, task.spec)(task.query.inputs)


def compare(expected: Any, found: Any, rule: str, remedy: str) -> None:
    """BrokenLaw where two trees of predictions differ by more than rounding."""
    if structure(expected) != structure(found):
        raise BrokenLaw(f"{rule}; found predictions of another structure. {remedy}")
    for a, b in zip(leaves(expected), leaves(found), strict=True):
        _compare_tensors(a.detach(), b.detach(), rule, remedy)


def _compare_tensors(expected: Tensor, found: Tensor, rule: str, remedy: str) -> None:
    # Sums in another order differ by far less than the tolerance, broken laws by far more.
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    if expected.shape != found.shape:
        raise BrokenLaw(f"{rule}; found {tuple(found.shape)} for {tuple(expected.shape)}. {remedy}")
    if not expected.numel():
        return
    # The huge logits of absent classes are compared relative to themselves, all others relative
    # to the largest ordinary one.
    size = expected.abs()
    ordinary = size.where(size < _HUGE, 0.0).max().clamp_min(1e-12)
    scale = size.where(size >= _HUGE, ordinary)
    error = float(((expected - found).abs() / scale).max())
    if not error <= tolerance:
        raise BrokenLaw(f"{rule}; found a relative difference of {error:.2g}. {remedy}".strip())


def same(a: Any, b: Any) -> bool:
    """Whether two trees of tensors are equal to the bit; NaN equals NaN."""
    if structure(a) != structure(b):
        return False
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


def largest_difference(a: Any, b: Any) -> float:
    """The largest absolute difference between two trees of the same shapes."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


def rows_at(tree: Any, *places: int) -> Any:
    """The rows at ``places`` of every leaf."""
    return map_tree(lambda leaf: leaf[list(places)], tree)
