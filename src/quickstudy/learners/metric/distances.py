"""Distances between rows: (n, d), (m, d) -> (n, m).

Written from products and sums: the batched backward of ``torch.cdist`` is silently wrong under
``torch.func`` (its vmapped gradient and jacrev disagree with a loop).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2."""
    return a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * (a @ b.mT)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a_i, b_j), in [0, 2]."""
    return 1 - normalize(a, dim=-1) @ normalize(b, dim=-1).mT
