"""MANN's recurrence, one step per row.

The contributions of features and previous labels are inputs here, because one matrix product
computes them for all rows. This module computes what depends on the state after the previous row.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.learners.memory.external_memory import LRUMemory, least_recently_used_access
from quickstudy.learners.recurrent import gated


class Weights(NamedTuple):
    """Weights of the recurrent connections; ``read`` is heads * width."""

    gates: Tensor  # (4 hidden, read + hidden): [r, h] of the previous row -> the cell's gates
    heads: Tensor  # (2 read + heads, hidden): h -> keys, delayed vectors if any, gates of the heads
    strength: Tensor  # (heads,)


class RowInputs(NamedTuple):
    """The contributions of each row's own inputs, biases included."""

    gates: Tensor  # (..., 4 hidden)
    heads: Tensor  # (..., 2 read + heads), or (..., read + heads) without delayed vectors
    tag: Tensor  # (..., tags): written beside the row's key
    tag_before: Tensor  # (..., tags): written beside the delayed vector, or the key in its place


class MemoryState(NamedTuple):
    """The state between rows."""

    recurrent: Tensor  # (..., read + hidden): [r, h]
    cell: Tensor  # (..., hidden)
    memory: Tensor  # (..., slots, width + tags)
    usage: Tensor  # (..., slots)
    read_addresses: Tensor  # (..., heads, slots): where each head read


def all_rows(rows: RowInputs, before: MemoryState, weights: Weights, decay: float) -> MemoryState:
    """The states before the first of ``rows`` (n, ...) and after each: (n + 1, ...)."""
    dtype = before.recurrent.dtype  # autocast would mix types within a row
    rows = RowInputs(*(part.to(dtype) for part in rows))
    weights = Weights(*(part.to(dtype) for part in weights))
    states = [before]
    autocast = torch._C._is_any_autocast_enabled()
    with torch.autocast(before.recurrent.device.type, enabled=False) if autocast else nullcontext():
        for row in zip(*rows, strict=True):
            states.append(one_row(RowInputs(*row), states[-1], weights, decay))
    return MemoryState(*(torch.stack(part) for part in zip(*states, strict=True)))


def one_row(row: RowInputs, before: MemoryState, weights: Weights, decay: float) -> MemoryState:
    """The state after a row; for rows (n, ...), n states, each after that row alone."""
    heads = len(weights.strength)
    state = gated(row.gates + before.recurrent @ weights.gates.mT, before.cell)
    head_inputs = row.heads + state.hidden @ weights.heads.mT
    width = before.memory.shape[-1] - row.tag.shape[-1]
    vectors = head_inputs[..., :-heads].unflatten(-1, (-1, heads, width))
    keys, delayed = vectors[..., 0, :, :], vectors[..., -1, :, :]  # keys twice, if there is but one
    memory, reads = least_recently_used_access(
        LRUMemory(before.memory, before.usage, before.read_addresses),
        keys,
        written=_tagged(keys, row.tag),
        delayed=_tagged(delayed, row.tag_before),
        strength=weights.strength,
        gate=head_inputs[..., -heads:].sigmoid(),
        decay=decay,
    )
    reads = reads[..., : keys.shape[-1]].flatten(-2)
    return MemoryState(torch.cat([reads, state.hidden], -1), state.cell, *memory)


def _tagged(vectors: Tensor, tag: Tensor) -> Tensor:
    """(..., heads, width) and (..., tags) -> (..., heads, width + tags)."""
    rows = (*vectors.shape[:-1], tag.shape[-1])
    return torch.cat([vectors, tag.unsqueeze(-2).expand(rows)], -1)
