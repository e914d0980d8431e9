"""Making examples from arrays, and helpers with which learners read examples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.classes import one_hot
from quickstudy.base.arrays import as_tensors, one_tensor
from quickstudy.base.door import (
    check_not_empty,
    check_rows,
    check_weights,
    refuse_infinite,
    to_inputs,
)
from quickstudy.base.trees import leaves, map_tree
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Acting, Answer, Examples


def examples(inputs: Any, targets: Any, weights: Any = None, groups: Any = None) -> Examples:
    """Examples from tensors, arrays or lists, checked.

    ``inputs``   (n, ...), or a tree (dict, tuple or NamedTuple) of them. Pixels, uint8 or images of
                 other integers, are scaled from 0…255 to [0, 1]; other integers stay ids, see
                 :func:`quickstudy.base.door.to_inputs`.
    ``targets``  in the form of the task's answer: (n,) integer class ids (-1 where unknown), (n, d)
                 reals (NaN where unknown), (n, height, width) ids, or a tree of tensors.
    ``weights``  (n,) non-negative and finite; ones by default.
    ``groups``   (n,) integers: the source of each row; zeros by default.

    All reals become torch's default type. Raises ValueError where numbers of rows differ or are 0,
    for what is no number, for inputs that are not finite, infinite targets, targets (n,) of reals,
    invalid weights or groups, and integers that look like pixels and are none.
    """
    inputs = as_tensors(inputs, "examples: inputs")
    targets = as_tensors(targets, "examples: targets")
    n = check_rows(inputs, "examples")
    check_not_empty(n, "examples")
    check_rows(targets, "examples", n, "targets")
    inputs, targets = to_inputs(inputs, "examples"), map_tree(_target, targets)
    refuse_infinite(targets, "examples")
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 1:
        raise ValueError(
            f"examples: real targets must have shape (n, d); found {tuple(targets.shape)}. "
            "Write targets[:, None] for one output, or give integer ids for classes."
        )
    device = next(leaves(targets)).device
    if weights is None:
        weights = torch.ones(n, device=device)
    weights = one_tensor(weights, "examples: weights").to(torch.get_default_dtype())
    check_weights(weights, n, "examples")
    groups = one_place(weights) if groups is None else one_tensor(groups, "examples: groups")
    if groups.shape != (n,) or groups.is_floating_point():
        raise ValueError(
            f"examples: groups must be {n} integers, one per row; found {groups.dtype} of shape "
            f"{tuple(groups.shape)}. Number the sources of the rows."
        )
    return Examples(inputs, targets, weights, groups.long())


def require_given(rows: Examples | Acting) -> Examples:
    """``rows``, if they are Examples; ValueError for :class:`Acting`."""
    if isinstance(rows, Examples):
        return rows
    raise ValueError(
        "task: needs Examples; found rows that are yet to be made by acting. Make them with "
        "quickstudy.tasks.acting.run_acting(learner, task) first."
    )


def one_place(weights: Tensor) -> Tensor:
    """``groups`` for rows that all come from one source: zeros in the shape of ``weights``."""
    return torch.zeros(weights.shape, dtype=torch.long, device=weights.device)


def _target(leaf: Tensor) -> Tensor:
    """Reals in the default type, so that tasks from lists, arrays and tensors share a stack."""
    return leaf.to(torch.get_default_dtype()) if leaf.is_floating_point() else leaf.long()


def counted_weights(rows: Examples, answer: Answer) -> Tensor:
    """(n,): the weights of rows with some known element; 0 for unlabelled rows.

    For batch statistics, and for learners that use or ignore a row as a whole.
    """
    if weights_are_uniform():
        return rows.weights
    known = answer.known(rows.targets)
    return rows.weights * (known if known.ndim == 1 else known.flatten(1).any(1))


def labelled(rows: Examples, answer: Answer) -> Examples:
    """The same rows, with weight 0 for those without a known element; shapes stay the same."""
    return rows._replace(weights=counted_weights(rows, answer))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(weights * values) / sum(weights): (..., n), (..., n) -> (...); 0 where all weights are 0.

    Values of weight 0 are ignored, even infinite or NaN ones.
    """
    present = weights > 0
    total = (weights * values.where(present, 0.0)).sum(-1)
    return total / weights.sum(-1).clamp_min(torch.finfo(weights.dtype).tiny)


def class_means(features: Tensor, support: Examples, outputs: int) -> tuple[Tensor, Tensor]:
    """Each class's weighted mean (outputs, ...) of ``features`` (n, ...), and weight (outputs,).

    Targets of ``support`` are class ids; the mean of a class without weight is zero.
    """
    counted = one_hot(support.targets, outputs, features.dtype)
    counted = counted * support.weights.to(features.dtype).unsqueeze(-1)
    totals = counted.sum(0)
    shares = counted / totals.clamp_min(torch.finfo(totals.dtype).tiny)
    return torch.einsum("nk,n...->k...", shares, features), totals


def without_absent(logits: Tensor, present: Tensor | None) -> Tensor:
    """Logits (..., outputs) in which classes that are not ``present`` (outputs,) get probability 0.

    Their logits are negative but finite, so that sums of such losses are finite too. With None for
    ``present`` nothing changes.
    """
    if present is None:
        return logits
    return torch.where(present, logits, max(torch.finfo(logits.dtype).min / 2, -1e30))


def take(rows: Examples, chosen: Tensor) -> Examples:
    """The ``chosen`` rows: their numbers, or a mask (n,)."""
    taken: Examples = map_tree(lambda leaf: leaf[chosen.to(leaf.device)], rows)
    return taken


def pad_rows(rows: Examples, n: int) -> Examples:
    """``rows`` padded to ``n`` rows; the added ones have weight 0.

    Padding repeats the first row, since zeros could make norms or distances undefined.
    """
    missing = n - len(rows.weights)
    if missing == 0:
        return rows

    def pad(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[:1].expand(missing, *leaf.shape[1:])])

    padded: Examples = map_tree(pad, rows)
    return padded._replace(weights=F.pad(rows.weights, (0, missing)))
