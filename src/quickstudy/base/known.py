"""Targets of which some elements are unknown: -1 for ids, NaN for reals."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of_known(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(n, ...) values that are 0 where unknown -> each row's mean over known ones, their share."""
    if known.ndim == 1:
        return values, known.to(values.dtype)
    counts = known.flatten(1).sum(1)
    means = values.flatten(1).sum(1) / counts.clamp_min(1)
    return means, counts.to(values.dtype) / known[0].numel()


def filled(leaf: Tensor) -> Tensor:
    """A zero in the place of what is unknown."""
    return leaf.nan_to_num(nan=0.0) if leaf.is_floating_point() else leaf.clamp_min(0)


def unknown_value(leaf: Tensor) -> float:
    """What stands for an unknown target of this type."""
    return torch.nan if leaf.is_floating_point() else -1
