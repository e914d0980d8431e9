"""Making examples from arrays, and helpers with which learners read examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.classes import one_hot
from quickstudy.base.trees import map_tree, named_leaves, rows
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Acting, Answer, Examples


def examples(inputs: Any, targets: Any, weights: Any = None, groups: Any = None) -> Examples:
    """Examples from tensors or arrays, with shapes checked.

    ``inputs``   (n, ...), or a tree (dict, tuple or NamedTuple) of them; uint8 is scaled to [0, 1],
                 see :func:`check_pixels`.
    ``targets``  in the form of the task's answer: (n,) integer class ids (-1 where unknown), (n, d)
                 reals (NaN where unknown), (n, height, width) ids, or a tree of tensors.
    ``weights``  (n,) non-negative and finite; ones by default.
    ``groups``   (n,) integers: the source of each row; zeros by default.

    All reals become torch's default type. Raises ValueError where numbers of rows differ or are 0,
    for targets (n,) of reals, invalid weights or groups, and uint8 that are no pixels.
    """
    inputs, targets = (map_tree(torch.as_tensor, _arrays(tree)) for tree in (inputs, targets))
    check_pixels(inputs, "examples")
    inputs, targets = map_tree(_input, inputs), map_tree(_target, targets)
    n = rows(inputs)
    if n == 0:
        raise ValueError(
            "examples: needs at least 1 row; found 0. Give a row of weight 0 where there is "
            "nothing to learn from."
        )
    for name, leaf in (*named_leaves(inputs, "inputs"), *named_leaves(targets, "targets")):
        if leaf.ndim == 0 or len(leaf) != n:
            raise ValueError(
                f"examples: inputs have {n} rows, but {name} have shape {tuple(leaf.shape)}. "
                "Give one entry per row."
            )
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 1:
        raise ValueError(
            f"examples: real targets must have shape (n, d); found {tuple(targets.shape)}. "
            "Write targets[:, None] for one output."
        )
    device = next(leaf.device for _, leaf in named_leaves(targets))
    if weights is None:
        weights = torch.ones(n, device=device)
    weights = torch.as_tensor(weights, dtype=torch.get_default_dtype())
    valid = (weights >= 0) & weights.isfinite()
    if weights.shape != (n,) or not bool(valid.all()):
        found = "" if bool(valid.all()) else f" with {float(weights[~valid][0]):g}"
        raise ValueError(
            f"examples: weights must be {n} non-negative, finite numbers, one per row; found shape "
            f"{tuple(weights.shape)}{found}. Give 0 to a row that must not count."
        )
    groups = one_place(weights) if groups is None else torch.as_tensor(groups)
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


def check_not_empty(rows: int, what: str) -> None:
    """ValueError for a support or query set (``what``) without rows."""
    if rows == 0:
        remedy = (
            "Give a row of weight 0 where there is nothing to learn from."
            if what == "support" else "Give rows to predict; learner(support, spec) needs none."
        )  # fmt: skip
        raise ValueError(f"{what}: needs at least 1 row; found 0. {remedy}")


def _arrays(tree: Any) -> Any:
    """A tree in which lists are replaced by arrays, because lists hold rows and are not trees."""
    if isinstance(tree, dict):
        return {name: _arrays(part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        parts = map(_arrays, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return np.asarray(tree) if isinstance(tree, list) else tree


def check_pixels(inputs: Any, what: str) -> None:
    """ValueError for uint8 inputs that are no pixels: all pixels are scaled to [0, 1].

    A single uint8 tensor of any shape is taken for pixels. In a tree, a uint8 leaf must have the
    shape of images, (n, channels, height, width): others could be ids or masks, for which a share
    of 255 would be wrong.
    """
    if isinstance(inputs, Tensor):
        return
    for name, leaf in named_leaves(inputs, "inputs"):
        if leaf.dtype == torch.uint8 and leaf.ndim != 4:
            raise ValueError(
                f"{what}: uint8 inputs in a tree must be images (n, channels, height, width), "
                f"since they are scaled to [0, 1]; found {name} of shape {tuple(leaf.shape)}. Turn "
                "ids into .long(), masks into .bool(), and pixels of another shape into .float()."
            )


def _input(leaf: Tensor) -> Tensor:
    return to_unit(leaf) if leaf.dtype == torch.uint8 else _default_real(leaf)


def _target(leaf: Tensor) -> Tensor:
    return _default_real(leaf) if leaf.is_floating_point() else leaf.long()


def _default_real(leaf: Tensor) -> Tensor:
    """Reals in the default type, so that tasks from lists, arrays and tensors can share a stack."""
    return leaf.to(torch.get_default_dtype()) if leaf.is_floating_point() else leaf


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels in [0, 255] -> the default float type in [0, 1]."""
    return pixels.to(torch.get_default_dtype()).mul_(1 / 255)


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
