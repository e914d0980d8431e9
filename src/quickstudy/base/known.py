"""Targets of which some elements are unknown: -1 for ids, NaN for reals."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of_known(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's mean over its known values (n,), and the share of known values (n,).

    ``values`` (n, ...) must be 0 where unknown.
    """
    if known.ndim == 1:
        return values, known.to(values.dtype)
    counts = known.flatten(1).sum(1)
    means = values.flatten(1).sum(1) / counts.clamp_min(1)
    return means, counts.to(values.dtype) / known[0].numel()


def is_known(leaf: Tensor) -> Tensor:
    """Which elements of ``leaf`` are known, in its shape."""
    return ~leaf.isnan() if leaf.is_floating_point() else leaf >= 0


def zero_if_unknown(leaf: Tensor) -> Tensor:
    """``leaf`` with zeros in place of unknown targets."""
    return leaf.nan_to_num(nan=0.0) if leaf.is_floating_point() else leaf.clamp_min(0)


def unknown_value(leaf: Tensor) -> float:
    """The value that marks an unknown target of this dtype."""
    return torch.nan if leaf.is_floating_point() else -1
