"""Making and reading examples and specs: what users write by hand, and what learners read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.base.trees import map_tree, rows
from quickstudy.core import Examples, TaskSpec


def cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(predictions)[target], one per row: (n, outputs), (n,) -> (n,)."""
    return -predictions.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference over the outputs, one per row: (n, d), (n, d) -> (n,)."""
    return (predictions - targets).square().mean(-1)


def classification(ways: int) -> TaskSpec:
    """A task that tells ``ways`` classes apart; predictions are logits (n, ways)."""
    if ways < 2:
        raise ValueError(f"classification: needs at least 2 ways; found {ways}.")
    return TaskSpec(ways, cross_entropy)


def regression(outputs: int = 1) -> TaskSpec:
    """A task that predicts ``outputs`` real numbers under squared error; targets (n, outputs)."""
    if outputs < 1:
        raise ValueError(f"regression: needs at least 1 output; found {outputs}.")
    return TaskSpec(outputs, squared_error)


def examples(inputs: Any, targets: Any, weights: Any = None) -> Examples:
    """Examples from tensors or arrays, with shapes checked.

    ``inputs``   (n, ...), or a tree (dict or tuple) of such; uint8 images are scaled to [0, 1].
    ``targets``  (n,) integer class ids (-1 where unknown), or (n, d) reals (NaN where unknown).
    ``weights``  (n,) non-negative; ones by default.
    """
    inputs = map_tree(_tensor, np.asarray(inputs) if isinstance(inputs, list) else inputs)
    targets = torch.as_tensor(np.asarray(targets) if isinstance(targets, list) else targets)
    n = rows(inputs)
    if targets.ndim == 0 or len(targets) != n:
        raise ValueError(
            f"examples: inputs have {n} rows, but targets have shape {tuple(targets.shape)}. "
            "Give one target per row."
        )
    if targets.is_floating_point() and targets.ndim != 2:
        raise ValueError(
            f"examples: real targets must have shape (n, d); found {tuple(targets.shape)}. "
            "Write targets[:, None] for one output."
        )
    if not targets.is_floating_point():
        if targets.ndim != 1:
            raise ValueError(
                f"examples: class ids must have shape (n,); found {tuple(targets.shape)}. "
                "Turn one-hot rows into ids with targets.argmax(-1)."
            )
        targets = targets.long()
    if weights is None:
        weights = torch.ones(n, device=targets.device)
    weights = torch.as_tensor(weights, dtype=torch.get_default_dtype())
    if weights.shape != (n,) or bool((weights < 0).any()):
        raise ValueError(
            f"examples: weights must be {n} non-negative numbers; found shape "
            f"{tuple(weights.shape)} with minimum {float(weights.min()):g}."
        )
    return Examples(inputs, targets, weights)


def _tensor(values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.dtype == torch.uint8:
        return to_unit(tensor)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to the default float type in [0, 1]."""
    return pixels.to(torch.get_default_dtype()).mul_(1 / 255)


def class_ids(examples: Examples, learner: str) -> Examples:
    """``examples`` as they are; ValueError where ``learner`` classifies but targets are real."""
    if examples.targets.is_floating_point():
        raise ValueError(
            f"{learner} classifies: targets must be integer class ids (n,); found "
            f"{examples.targets.dtype} of shape {tuple(examples.targets.shape)}. "
            "Use integer ids, or a learner for regression."
        )
    return examples


def labelled(examples: Examples) -> Examples:
    """The same rows, with unlabelled ones (-1 or NaN) given weight 0 and a harmless target.

    What a supervised learner and every loss read: shapes are kept, so tasks still batch.
    """
    targets, weights = examples.targets, examples.weights
    if targets.is_floating_point():
        unknown = targets.isnan().flatten(1).any(1)
        targets = targets.nan_to_num()
    else:
        unknown = targets < 0
        targets = targets.clamp_min(0)
    return Examples(examples.inputs, targets, weights.masked_fill(unknown, 0.0))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(weights * values) / sum(weights): (..., n), (..., n) -> (...); 0 where all weights are 0.

    A row of weight 0 is absent whatever its value, so an infinite or NaN one does no harm.
    """
    present = weights > 0
    total = (weights * values.where(present, 0.0)).sum(-1)
    return total / weights.sum(-1).clamp_min(torch.finfo(weights.dtype).tiny)


def one_hot(targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """(n,) class ids -> (n, outputs) zeros and ones, written so that ``vmap`` takes it."""
    return (targets.unsqueeze(-1) == torch.arange(outputs, device=targets.device)).to(dtype)


def class_weights(support: Examples, outputs: int) -> Tensor:
    """(outputs,): the total weight of each class in a labelled support set."""
    return support.weights @ one_hot(support.targets, outputs, support.weights.dtype)


def class_means(features: Tensor, support: Examples, outputs: int) -> tuple[Tensor, Tensor]:
    """Weighted mean (outputs, ...) of the ``features`` (n, ...) of each class, and its weight.

    ``support`` is labelled; the mean of a class without weight is zero.
    """
    counted = one_hot(support.targets, outputs, features.dtype)
    counted = counted * support.weights.to(features.dtype).unsqueeze(-1)
    totals = counted.sum(0)
    shares = counted / totals.clamp_min(torch.finfo(totals.dtype).tiny)
    return torch.einsum("nk,n...->k...", shares, features), totals


def without_absent(logits: Tensor, present: Tensor) -> Tensor:
    """Logits (n, outputs) in which classes that are not ``present`` (outputs,) get probability 0.

    Finite, and far enough from the largest number that sums of such losses stay finite too.
    """
    return torch.where(present, logits, max(torch.finfo(logits.dtype).min / 2, -1e30))


def pad_rows(examples: Examples, n: int) -> Examples:
    """``examples`` padded to ``n`` rows of weight 0.

    Padding repeats the first row: real values keep every norm and distance well defined.
    """
    missing = n - len(examples.weights)
    if missing == 0:
        return examples

    def pad(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[:1].expand(missing, *leaf.shape[1:])])

    return Examples(
        map_tree(pad, examples.inputs),
        pad(examples.targets),
        F.pad(examples.weights, (0, missing)),
    )
