"""The operations of :mod:`quickstudy.learners.memory.mann_sequence`, forward and backward.

Each row's results are written in place into room made for all rows. ``of_x`` is the slope of the
loss along x.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.learners.memory.external_memory import EPSILON
from quickstudy.learners.memory.mann_rows import Kept, Told, Weights


class Work(NamedTuple):
    """What the derivative needs of each row beside what is kept, (rows, sequences, ...)."""

    gates: Tensor  # (4 hidden): of the cell
    tanh: Tensor  # (hidden): of the cell
    vectors: Tensor  # (2, heads, width + tags): keys and what comes late, tagged
    gate: Tensor  # (heads, 1)
    again: Tensor  # (heads, slots): where what comes late is written
    least: Tensor  # (heads): the emptied slots
    dots: Tensor  # (heads, slots): products of keys and slots
    of_key: Tensor  # (heads, 1): one over a key's length
    of_slot: Tensor  # (1, slots): one over a slot's length
    scale: Tensor  # (heads, slots): what makes dots scores: both of these, and the strength


def read_rows(told: Told, start: Kept, weights: Weights, decay: float) -> tuple[Kept, Work]:
    """Told (rows, sequences, ...), start (sequences, ...) -> kept (rows + 1, sequences, ...)."""
    kept = Kept(*(part.new_empty(len(told.gates) + 1, *part.shape) for part in start))
    for part, first in zip(kept, start, strict=True):
        part[0] = first
    work = _room(told, start)
    before, *others = _each(kept)
    for row, at_work, after in zip(_each(told), _each(work), others, strict=True):
        _write(row, before, at_work, after, weights)
        _read(before, at_work, after, weights, decay)
        before = after
    return kept, work


def _each(parts: Any) -> Iterator[Any]:
    """Row after row of a tuple of tensors (rows, ...), as a tuple of that kind."""
    return (type(parts)(*row) for row in zip(*(part.unbind() for part in parts), strict=True))


def _room(told: Told, start: Kept) -> Work:
    (heads, slots), width = start.looks.shape[-2:], start.memory.shape[-1]

    def empty(*shape: int, dtype: torch.dtype = start.seen.dtype) -> Tensor:
        return start.seen.new_empty(*told.gates.shape[:2], *shape, dtype=dtype)

    vectors = empty(2, heads, width)
    untagged = width - told.tag.shape[-1]
    vectors[..., 0, :, untagged:] = told.tag.unsqueeze(-2)
    vectors[..., 1, :, untagged:] = told.tag_before.unsqueeze(-2)
    return Work(
        gates=torch.empty_like(told.gates, memory_format=torch.contiguous_format),
        tanh=empty(start.cell.shape[-1]),
        vectors=vectors,
        gate=empty(heads, 1),
        again=empty(heads, slots),
        least=empty(heads, dtype=torch.long),
        dots=empty(heads, slots),
        of_key=empty(heads, 1),
        of_slot=empty(1, slots),
        scale=empty(heads, slots),
    )


def _write(told: Told, before: Kept, work: Work, after: Kept, weights: Weights) -> None:
    """The cell and the memory after a row."""
    heads, hidden = before.looks.shape[-2], before.cell.shape[-1]
    torch.addmm(told.gates, before.seen, weights.gates.T, out=work.gates)
    work.gates[:, : 3 * hidden].sigmoid_()
    i, f, o, new = work.gates.chunk(4, -1)
    torch.mul(f, before.cell, out=after.cell).addcmul_(i, new.tanh_())
    h = torch.mul(o, torch.tanh(after.cell, out=work.tanh), out=after.seen[:, -hidden:])

    said = torch.addmm(told.heads, h, weights.heads.T)
    spoken = said[:, :-heads].view(len(said), 2, heads, -1)
    work.vectors[..., : spoken.shape[-1]] = spoken
    keys, late = work.vectors.unbind(1)
    torch.sigmoid(said[:, -heads:, None], out=work.gate)
    torch.mul(work.gate, before.looks, out=work.again)
    work.least.copy_(before.usage.argsort(dim=-1, stable=True)[:, :heads])
    after.memory.copy_(before.memory)
    after.memory.scatter_(1, _places(work), (1 - work.gate) * keys)  # emptied, and written anew
    after.memory.baddbmm_(work.again.mT, late)


def _read(before: Kept, work: Work, after: Kept, weights: Weights, decay: float) -> None:
    """Where the heads look after a row's write, what they find, and the usage of slots."""
    reads = after.seen[:, : -before.cell.shape[-1]].view(*work.gate.shape[:2], -1)
    keys, slots = work.vectors[:, 0, :, : reads.shape[-1]], after.memory[..., : reads.shape[-1]]
    torch.rsqrt(keys.square().sum(-1, keepdim=True).add_(EPSILON**2), out=work.of_key)
    torch.rsqrt(slots.square().sum(-1).add_(EPSILON**2).unsqueeze(1), out=work.of_slot)
    torch.bmm(keys, slots.mT, out=work.dots)
    torch.mul(weights.strength[:, None] * work.of_key, work.of_slot, out=work.scale)
    torch.softmax(work.dots * work.scale, -1, out=after.looks)
    reads.copy_(torch.bmm(after.looks, slots))  # `out=` is slow where rows lie apart
    looked = (after.looks + work.again).sum(1)
    torch.add(looked, before.usage, alpha=decay, out=after.usage)
    after.usage.scatter_add_(1, work.least, (1 - work.gate).squeeze(-1))


def _places(work: Work) -> Tensor:
    """The emptied slots as indices of the memory, (sequences, heads, width + tags)."""
    return work.least.unsqueeze(-1).expand(-1, -1, work.vectors.shape[-1])


def slopes(given: Any, kept: Kept, work: Work, weights: Weights) -> tuple[Any, Any, Weights]:
    """Slopes of what is told, of the start and of the weights, from those of what is kept.

    Tags and usage have none, and what is ``given`` for a part may be None. A row's slopes of what
    was kept before it join those that were given for that.
    """
    factors = _factors(kept, work, weights)
    seen = torch.zeros_like(kept.seen) if given.seen is None else given.seen.clone()
    names = ("cell", "memory", "looks")
    parts = [(getattr(given, name), getattr(kept, name)) for name in names]
    cell, memory, looks = (torch.zeros_like(k[0]) if g is None else g[-1].clone() for g, k in parts)
    gates, scores = torch.empty_like(work.gates), torch.empty_like(work.dots)
    heads = gates.new_empty(*gates.shape[:2], weights.heads.shape[0])
    rows = zip(
        *(list(_each(part)) for part in (kept, work, factors)),
        *(part.unbind() for part in (seen, gates, heads, scores)),
        strict=False,
    )
    after, of_seen = Kept(*(part[-1] for part in kept)), seen[-1]
    for t, (before, here, factor, of_before, of_gates, of_heads, of_scores) in reversed(
        list(enumerate(rows))
    ):
        of_keys = _read_slopes(of_seen, looks, memory, here, after, factor, of_scores)
        looks = _write_slopes(of_keys, memory, before, here, factor, of_heads)
        of_hidden = torch.addmm(of_seen[:, -cell.shape[-1] :], of_heads, weights.heads)
        cell = _cell_slopes(of_hidden, cell, here, factor, of_gates)
        of_before.addmm_(of_gates, weights.gates)
        for carried, (slope, _) in zip((cell, memory, looks), parts, strict=True):
            if slope is not None:
                carried.add_(slope[t])
        after, of_seen = before, of_before
    hidden = kept.seen[1:, ..., -cell.shape[-1] :]
    of_weights = Weights(
        gates.flatten(0, 1).mT @ kept.seen[:-1].flatten(0, 1),
        heads.flatten(0, 1).mT @ hidden.flatten(0, 1),
        (scores * work.dots * work.of_key * work.of_slot).sum((0, 1, 3)),
    )
    return (gates, heads, None, None), (seen[0], cell, memory, None, looks), of_weights


class _Factors(NamedTuple):
    """What slopes are multiplied by: known before the first of them, so made for all at once."""

    cell: Tensor  # (hidden): slope of the hidden state -> of the cell
    gates: Tensor  # (4, hidden): of the cell, or of the hidden state for o -> of the cell's gates
    forget: Tensor  # (hidden): of the cell -> of that before
    gate: Tensor  # (heads): of a head's gate -> before its sigmoid
    anew: Tensor  # (heads, 1): of a slot -> of the key written into it
    shrink_key: Tensor  # (heads, 1)
    shrink_slot: Tensor  # (1, slots): what longer vectors would take from their cosines


def _factors(kept: Kept, work: Work, weights: Weights) -> _Factors:
    hidden = work.tanh.shape[-1]
    i, f, o, new = work.gates.chunk(4, -1)
    sigmoids = work.gates[..., : 3 * hidden]
    gates = torch.cat([new, kept.cell[:-1], work.tanh], -1) * (sigmoids * (1 - sigmoids))
    gates = torch.cat([gates, i * (1 - new.square())], -1).unflatten(-1, (4, hidden))
    gate = work.gate.squeeze(-1)
    return _Factors(
        o * (1 - work.tanh.square()), gates, f, gate * (1 - gate), 1 - work.gate,
        -work.of_key.square(), -work.of_slot.square(),
    )  # fmt: skip


def _read_slopes(
    of_seen: Tensor, of_looks: Tensor, of_memory: Tensor, work: Work, after: Kept,
    factor: _Factors, of_scores: Tensor,
) -> Tensor:  # fmt: skip
    """Slopes of the keys; those of the memory are added, those of the scores written."""
    of_reads = of_seen[:, : -work.tanh.shape[-1]].view(*work.gate.shape[:2], -1)
    width = of_reads.shape[-1]
    keys, slots = work.vectors[:, 0, :, :width], after.memory[..., :width]
    weighted = torch.bmm(of_reads, slots.mT).add_(of_looks).mul_(after.looks)
    total = weighted.sum(-1, keepdim=True)
    torch.addcmul(weighted, after.looks, total, value=-1, out=of_scores)
    of_dots = of_scores * work.scale
    along = of_dots * work.dots
    of_slots = of_memory[..., :width]
    of_slots.baddbmm_(after.looks.mT, of_reads).baddbmm_(of_dots.mT, keys)
    of_slots.addcmul_(slots, (along.sum(-2, keepdim=True) * factor.shrink_slot).mT)
    of_keys = torch.bmm(of_dots, slots)
    return of_keys.addcmul_(keys, along.sum(-1, keepdim=True) * factor.shrink_key)


def _write_slopes(
    of_keys: Tensor, of_memory: Tensor, before: Kept, work: Work, factor: _Factors,
    of_heads: Tensor,
) -> Tensor:  # fmt: skip
    """Slopes of where the heads looked before; those of the memory become those before the write.

    ``of_heads`` is written: slopes of what the heads were told.
    """
    heads, width = of_keys.shape[-2:]
    keys, late = work.vectors.unbind(1)
    of_vectors = of_heads[:, :-heads].view(len(keys), 2, heads, width)
    of_vectors[:, 1] = torch.bmm(work.again, of_memory[..., :width])
    of_again = torch.bmm(late, of_memory.mT)
    places = _places(work)
    of_new = of_memory.gather(1, places)
    torch.addcmul(of_keys, factor.anew, of_new[..., :width], out=of_vectors[:, 0])
    of_gate = (of_again * before.looks).sum(-1) - (of_new * keys).sum(-1)
    torch.mul(of_gate, factor.gate, out=of_heads[:, -heads:])
    of_memory.scatter_(1, places, 0.0)
    return of_again.mul_(work.gate)


def _cell_slopes(
    of_hidden: Tensor, of_cell: Tensor, work: Work, factor: _Factors, of_gates: Tensor
) -> Tensor:
    """Slopes of the cell before; those of its gates are written."""
    of_cell = torch.addcmul(of_cell, of_hidden, factor.cell)
    of_gates = of_gates.view(factor.gates.shape)
    torch.mul(of_cell.unsqueeze(1), factor.gates, out=of_gates)
    torch.mul(of_hidden, factor.gates[:, 2], out=of_gates[:, 2])
    return of_cell.mul_(factor.forget)
