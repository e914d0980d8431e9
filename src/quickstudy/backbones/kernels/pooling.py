"""2x2 max-pooling whose second derivative keeps its layout.

Torch gives the derivative of a pooling's derivative in the plain layout, whatever the layout of
its input. Behind it every norm and convolution of a second-order step on a CPU would get maps in
two layouts, which takes some of them four times as long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from quickstudy.base.modules import channels_last, custom_gradient_allowed, in_torch_func, mapped


class MaxPool2x2(nn.Module):
    """Maps (n, channels, height, width) -> the greatest of each 2x2 positions, half as large."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, channels, height // 2, width // 2)."""
        if in_torch_func() or not custom_gradient_allowed() or not channels_last(x):
            return F.max_pool2d(x, 2)
        pooled: Tensor = _Pool.apply(x)[0]  # type: ignore[no-untyped-call]
        return pooled


class _Pool(Function):
    """The maxima, and where in its plane each stands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        ctx.mark_non_differentiable(places)
        ctx.set_materialize_grads(False)  # zeros for the places, too
        ctx.save_for_backward(x, places)
        return pooled, places

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> Tensor | None:
        if g is None:
            return None
        recorded = torch.is_grad_enabled() and not mapped(g)
        spread = _Spread.apply if recorded else _spread
        slope: Tensor = spread(g, *ctx.saved_tensors)
        return slope


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return _spread(g, x, places)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        found = _positions(v).gather(1, _positions(places))
        n, channels, height, width = places.shape
        return found.view(n, height, width, channels).permute(0, 3, 1, 2), None, None


def _spread(g: Tensor, x: Tensor, places: Tensor) -> Tensor:
    """g where the maxima of x stand, zero elsewhere; x tells size and layout alone."""
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    slope: Tensor = backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places)
    return slope


def _positions(maps: Tensor) -> Tensor:
    """(n, channels, height, width) -> (n, positions, channels), a view where channels come last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
