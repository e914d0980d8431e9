"""MANN's recurrence over a whole sequence, as one operation whose derivative is in closed form.

:func:`quickstudy.learners.memory.mann_rows.one_row` is the definition. A row is small, so torch's
time would go into recording some sixty operations for it, and into adding up the slopes of shared
weights after each. Done by hand, a row takes half of them; factors that are known beforehand are
made for all rows at once, and the weights' slopes are one product at the end.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quickstudy.base.modules import mapped, torch_must_see
from quickstudy.learners.memory.mann_kernels import Work, read_rows, slopes
from quickstudy.learners.memory.mann_rows import Kept, Told, Weights, one_row

_TOLD, _KEPT, _WEIGHTS = (len(kind._fields) for kind in (Told, Kept, Weights))


def all_rows(rows: Told, before: Kept, weights: Weights, decay: float) -> Kept:
    """What is kept before the first of ``rows`` (n, ...) and after each: (n + 1, ...)."""
    # One sequence is a batch of one; torch.vmap makes it as many as there are tasks.
    dtype = before.seen.dtype  # autocast would mix types within a row
    rows = rows._replace(tag=rows.tag.detach(), tag_before=rows.tag_before.detach())
    told = [part.to(dtype).unsqueeze(1) for part in rows]
    start = [part.unsqueeze(0) for part in before]
    autocast = torch._C._is_any_autocast_enabled()
    with torch.autocast(before.seen.device.type, enabled=False) if autocast else nullcontext():
        run = _by_definition if torch_must_see() else _run
        kept = run(decay, *told, *start, *(part.to(dtype) for part in weights))[:_KEPT]
    return Kept(*(part.squeeze(1) for part in kept))


def _by_definition(decay: float, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs as :class:`_Rows` takes them, and the first of its outputs."""
    told, start, weights = _parted(inputs)
    kept = [start]
    for row in zip(*told, strict=True):
        kept.append(one_row(Told(*row), kept[-1], weights, decay))
    return tuple(torch.stack(part) for part in zip(*kept, strict=True))


def _run(decay: float, *inputs: Tensor) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = _Rows.apply(decay, *inputs)  # type: ignore[no-untyped-call]
    return outputs


def _parted(inputs: tuple[Tensor, ...]) -> tuple[Told, Kept, Weights]:
    told, start = inputs[:_TOLD], inputs[_TOLD : _TOLD + _KEPT]
    return Told(*told), Kept(*start), Weights(*inputs[_TOLD + _KEPT :])


class _Rows(Function):
    """Told (rows, sequences, ...), kept (sequences, ...), weights -> kept (rows + 1, sequences, …).

    Then the :class:`Work`, which only the derivative uses.
    """

    @staticmethod
    def forward(decay: float, *inputs: Tensor) -> tuple[Tensor, ...]:
        kept, work = read_rows(*_parted(inputs), decay)
        return *kept, *work

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.decay = inputs[0]
        ctx.set_materialize_grads(False)  # what is kept of most rows is not looked at
        ctx.mark_non_differentiable(Kept(*output[:_KEPT]).usage, *output[_KEPT:])
        ctx.save_for_backward(*inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint gives them no second time
        inputs, output = saved[: _TOLD + _KEPT + _WEIGHTS], saved[_TOLD + _KEPT + _WEIGHTS :]
        one_by_one = not any(mapped(slope) for slope in given if slope is not None)
        # A derivative of this one may follow, which torch must be able to record.
        if torch.is_grad_enabled() or torch_must_see() or not one_by_one:
            kept, pull = torch.func.vjp(partial(_by_definition, ctx.decay), *inputs)  # type: ignore[misc]
            pairs = zip(given, kept, strict=False)
            return None, *pull(tuple(torch.zeros_like(k) if s is None else s for s, k in pairs))
        kept, work, weights = Kept(*output[:_KEPT]), Work(*output[_KEPT:]), _parted(inputs)[2]
        of_told, of_start, of_weights = slopes(Kept(*given[:_KEPT]), kept, work, weights)
        return None, *of_told, *of_start, *of_weights

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], decay: float, *inputs: Tensor) -> Any:
        """Sequences of all that are mapped, beside one another."""
        size, dims = info.batch_size, in_dims[1:]
        if any(dim is not None for dim in dims[_TOLD + _KEPT :]):  # each under weights of its own
            each = [_run(decay, *_one(inputs, dims, i)) for i in range(size)]
            return tuple(torch.stack(part) for part in zip(*each, strict=True)), (0,) * len(each[0])
        joined = [
            _beside(part, dim, size, 1 if i < _TOLD else 0)
            for i, (part, dim) in enumerate(zip(inputs[:-_WEIGHTS], dims, strict=False))
        ]
        output = _run(decay, *joined, *inputs[-_WEIGHTS:])
        return tuple(part.unflatten(1, (size, -1)) for part in output), (1,) * len(output)


def _beside(part: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    """A mapped dimension joined with that of the sequences, which is ``axis`` of each."""
    if dim is None:
        part = part.unsqueeze(axis).expand(*part.shape[:axis], size, *part.shape[axis:])
    else:
        part = part.movedim(dim, axis)
    return part.flatten(axis, axis + 1)


def _one(inputs: tuple[Tensor, ...], dims: tuple[int | None, ...], i: int) -> list[Tensor]:
    pairs = zip(inputs, dims, strict=True)
    return [part if dim is None else part.select(dim, i) for part, dim in pairs]
