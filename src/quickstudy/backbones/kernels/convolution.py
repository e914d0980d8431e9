"""A 3x3 convolution that skips gradients with respect to its input where none is needed.

torch's double backward of a convolution always includes the gradient of the input. For the first
layer, whose input is data, that is a wasted transposed convolution over the largest maps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from quickstudy.base.modules import custom_gradient_allowed, in_torch_func, mapped


class Conv3x3(nn.Conv2d):
    """Maps (n, inputs, height, width) -> (n, outputs, height, width)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, height, width)."""
        if x.requires_grad or x.ndim != 4 or in_torch_func() or not custom_gradient_allowed():
            return super().forward(x)
        maps: Tensor = _ConvolutionOfData.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return maps


class _ConvolutionOfData(Function):
    """The convolution, differentiable with respect to weight and bias only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        recorded = torch.is_grad_enabled() and not mapped(g)
        gradients = _ParameterGradients.apply if recorded else _parameter_gradients
        x, weight = ctx.saved_tensors
        return None, *gradients(g, x, weight, ctx.biased)


class _ParameterGradients(Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, biased: bool
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(x)
        return _parameter_gradients(g, x, weight, biased)

    @staticmethod
    def backward(ctx: Any, v: Tensor, v_bias: Tensor | None) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors  # the gradients are linear in g; their derivative is a conv
        return _ConvolutionOfData.apply(x, v, v_bias), None, None, None  # type: ignore[no-untyped-call]


def _parameter_gradients(
    g: Tensor, x: Tensor, weight: Tensor, biased: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias for the output's gradient g; of ``weight`` only shape and
    layout are used."""
    sizes, one, no = [len(weight)] if biased else None, [1, 1], [0, 0]
    wanted = [False, True, biased]
    backward = torch.ops.aten.convolution_backward
    _, of_weight, of_bias = backward(g, x, weight, sizes, one, one, one, False, no, 1, wanted)
    return of_weight, of_bias if biased else None
