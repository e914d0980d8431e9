"""Attention over the support set: row weights as biases, shares, heads."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -1e30  # finite: where every row is absent, a softmax of minus infinities would be NaN


def log_weights(weights: Tensor) -> Tensor:
    """(n,) weights -> (n,) biases of a softmax: a row of weight 2 counts twice, of 0 not at all."""
    present = weights > 0
    return torch.where(present, weights.where(present, 1.0).log(), ABSENT)


def shares(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """softmax(queries keysᵀ / √d + bias): (..., m, d), (..., n, d), (n,) or (m, n) -> (..., m, n).

    Reference: Vaswani et al. (2017), Attention Is All You Need, equation 1.
    """
    return _scores(queries, keys, bias).softmax(-1)


def of_present(share: Tensor, bias: Tensor) -> Tensor:
    """Shares (..., n) as a learner's ``attention`` reports them: 0 for absent rows.

    This matters if all rows are absent, because the softmax still sums to 1 over them.
    """
    return share.where(bias > ABSENT / 2, 0.0)


def mean_over_outputs(share: Tensor, present: Tensor | None) -> Tensor:
    """Shares (outputs, n, m) -> (n, m): the mean over outputs that are ``present`` (or all)."""
    if present is None:
        return share.mean(0)
    weights = present.to(share.dtype)
    return torch.einsum("k, knm -> nm", weights / weights.sum().clamp_min(1), share)


def read_memory_and_self(
    queries: Tensor, own: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor], bias: Tensor
) -> Tensor:
    """Attention of each row to a memory and to itself, but to no other row: (..., m, e).

    ``queries``  (..., m, d).
    ``own``      keys (..., m, d) and values (..., m, e) of the rows themselves.
    ``memory``   keys (..., n, d) and values (..., n, e), with ``bias`` (n,).
    """
    (own_keys, own_values), (keys, values) = own, memory
    of_self = (queries * own_keys).sum(-1, keepdim=True) * queries.shape[-1] ** -0.5
    share = torch.cat([_scores(queries, keys, bias), of_self], -1).softmax(-1)
    read: Tensor = share[..., :-1] @ values + share[..., -1:] * own_values
    return read


def _scores(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    scores: Tensor = (queries @ keys.mT) * queries.shape[-1] ** -0.5 + bias
    return scores


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """(..., n, d) -> (..., heads, n, d / heads)."""
    split: Tensor = rows.unflatten(-1, (heads, rows.shape[-1] // heads))
    return split.transpose(-3, -2)


def join_heads(rows: Tensor) -> Tensor:
    """(..., heads, n, d) -> (..., n, heads * d)."""
    return rows.transpose(-3, -2).flatten(-2)
