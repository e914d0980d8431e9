"""Calibration: whether predicted probabilities match observed frequencies."""

from __future__ import annotations

import torch
from torch import Tensor


def calibration_error(
    confidence: Tensor, right: Tensor, weights: Tensor | None = None, bins: int = 15
) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal bins.

    ``confidence`` (n,) highest probability per row; ``right`` (n,) 1 where it is the true class's;
    ``weights`` (n,) of the rows, ones by default.
    Reference: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3.
    """
    weights = torch.ones_like(confidence) if weights is None else weights
    bin_of = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device)
    gaps.index_add_(0, bin_of, weights * (confidence - right.to(confidence.dtype)))
    return float(gaps.abs().sum() / weights.sum())
