"""MANN's recurrence by definition: one step updates the state that earlier rows left.

The contribution of a row's features and previous label is an input here, because one matrix product
computes it for all rows. This module computes what depends on the previous row's state.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.learners.memory.external_memory import Used, least_recently_used_access
from quickstudy.learners.recurrent import gated


class Weights(NamedTuple):
    """What every row applies to what was before it; ``found`` is heads * width numbers."""

    gates: Tensor  # (4 hidden, found + hidden): [r, h] of the row before -> the cell's gates
    heads: Tensor  # (2 found + heads, hidden): h -> keys, what comes late, and gates of the heads
    strength: Tensor  # (heads,)


class RowInputs(NamedTuple):
    """The part of the inputs (..., numbers) that rows contribute themselves, biases included."""

    gates: Tensor  # (..., 4 hidden)
    heads: Tensor  # (..., 2 found + heads)
    tag: Tensor  # (..., tags): written beside a row's key
    tag_before: Tensor  # (..., tags): written beside what comes late


class MemoryState(NamedTuple):
    """The state between rows."""

    seen: Tensor  # (..., found + hidden): [r, h]
    cell: Tensor  # (..., hidden)
    memory: Tensor  # (..., slots, width + tags)
    usage: Tensor  # (..., slots)
    looks: Tensor  # (..., heads, slots): where each head read


def all_rows(rows: RowInputs, before: MemoryState, weights: Weights, decay: float) -> MemoryState:
    """What is kept before the first of ``rows`` (n, ...) and after each: (n + 1, ...)."""
    dtype = before.seen.dtype  # autocast would mix types within a row
    rows = RowInputs(*(part.to(dtype) for part in rows))
    weights = Weights(*(part.to(dtype) for part in weights))
    states = [before]
    autocast = torch._C._is_any_autocast_enabled()
    with torch.autocast(before.seen.device.type, enabled=False) if autocast else nullcontext():
        for row in zip(*rows, strict=True):
            states.append(one_row(RowInputs(*row), states[-1], weights, decay))
    return MemoryState(*(torch.stack(part) for part in zip(*states, strict=True)))


def one_row(row: RowInputs, before: MemoryState, weights: Weights, decay: float) -> MemoryState:
    """What is kept after a row; of rows (n, ...) that each come next, after each."""
    heads = len(weights.strength)
    state = gated(row.gates + before.seen @ weights.gates.mT, before.cell)
    head_inputs = row.heads + state.hidden @ weights.heads.mT
    keys, late = head_inputs[..., :-heads].unflatten(-1, (2, heads, -1)).unbind(-3)
    used, reads = least_recently_used_access(
        Used(before.memory, before.usage, before.looks),
        keys,
        new=_tagged(keys, row.tag),
        late=_tagged(late, row.tag_before),
        strength=weights.strength,
        gate=head_inputs[..., -heads:].sigmoid(),
        decay=decay,
    )
    reads = reads[..., : keys.shape[-1]].flatten(-2)
    return MemoryState(torch.cat([reads, state.hidden], -1), state.cell, *used)


def _tagged(vectors: Tensor, tag: Tensor) -> Tensor:
    """(..., heads, width) and (..., tags) -> (..., heads, width + tags)."""
    rows = (*vectors.shape[:-1], tag.shape[-1])
    return torch.cat([vectors, tag.unsqueeze(-2).expand(rows)], -1)
