"""Distances between rows: (n, d), (m, d) -> (n, m).

We compute them by products and sums, because the batched backward of ``torch.cdist`` is silently
wrong under ``torch.func`` (its vmapped gradient and jacrev disagree with a loop).
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2."""
    # Far from the origin the terms below would lose precision, so we subtract the mean of b.
    centre = b.mean(-2, keepdim=True)
    a, b = a - centre, b - centre
    return a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2) - 2 * (a @ b.mT)


def gaussian(a: Tensor, b: Tensor, gamma: float | Tensor) -> Tensor:
    """The kernel exp(-gamma |a_i - b_j|^2), at most 1."""
    return (-gamma * squared_euclidean(a, b).clamp_min(0)).exp()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a_i, b_j), in [0, 2]; 1 if a row is zero, which has no direction."""
    return 1 - unit(a) @ unit(b).mT


def unit(rows: Tensor) -> Tensor:
    """Each row divided by its norm; a zero row and its gradient are unchanged."""
    squares = rows.square().sum(-1, keepdim=True)
    return rows * torch.where(squares > 0, squares, 1.0).rsqrt()


def tanimoto(a: Tensor, b: Tensor) -> Tensor:
    """The similarity <a, b> / (|a|^2 + |b|^2 - <a, b>), at most 1; 1 for two rows of zeros.

    For rows of zeros and ones it is the share of the ones of either that both have (Jaccard).
    Reference: Ralaivola, Swamidass, Saigo and Baldi (2005), Graph kernels for chemical informatics.
    """
    both = a @ b.mT
    either = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2) - both
    return torch.where(either > 0, both / either.where(either > 0, 1.0), 1.0)
