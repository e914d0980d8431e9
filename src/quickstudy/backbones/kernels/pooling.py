"""2x2 max-pooling whose second derivative keeps the memory layout channels last.

torch's double backward of max-pooling returns contiguous tensors, whatever the input's layout. In
second-order steps on a CPU, norms and convolutions would then get operands in two layouts, which
makes some of them four times slower.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from quickstudy.base.modules import channels_last, custom_gradient_allowed, in_torch_func, mapped


class MaxPool2x2(nn.Module):
    """Maps (n, channels, height, width) -> the maximum of each 2x2 block, half as large."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, channels, height // 2, width // 2)."""
        if in_torch_func() or not custom_gradient_allowed() or not channels_last(x):
            return F.max_pool2d(x, 2)
        pooled: Tensor = _Pool.apply(x)[0]  # type: ignore[no-untyped-call]
        return pooled


class _Pool(Function):
    """The maxima, and their indices in the flattened plane."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)  # else zeros would be made for the indices
        ctx.save_for_backward(x, indices)
        return pooled, indices

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> Tensor | None:
        if g is None:
            return None
        recorded = torch.is_grad_enabled() and not mapped(g)
        scatter = _Scatter.apply if recorded else _scatter
        gradient: Tensor = scatter(g, *ctx.saved_tensors)
        return gradient


class _Scatter(Function):
    """The gradient of the input, differentiable with respect to g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        return _scatter(g, x, indices)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        found = _positions(v).gather(1, _positions(indices))
        n, channels, height, width = indices.shape
        return found.view(n, height, width, channels).permute(0, 3, 1, 2), None, None


def _scatter(g: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """g at the positions of the maxima, 0 elsewhere; of x only shape and layout are used."""
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    gradient: Tensor = backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, indices)
    return gradient


def _positions(maps: Tensor) -> Tensor:
    """(n, channels, height, width) -> (n, positions, channels), a view where channels come last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
