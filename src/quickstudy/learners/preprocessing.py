"""Gradients and losses of any order of magnitude as inputs of networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def preprocess(x: Tensor, p: float = 10.0) -> Tensor:
    """(...) -> (..., 2): size and sign of numbers of any order of magnitude.

    (log|x| / p, sign x) where |x| >= exp(-p), else (-1, exp(p) x).

    Reference: Andrychowicz et al. (2016), Learning to learn by gradient descent by gradient
    descent, appendix A.
    """
    least = math.exp(-p)
    size = x.abs().clamp_min(least).log() / p
    sign = torch.where(x.abs() >= least, x.sign(), x / least)
    return torch.stack([size, sign], -1)
