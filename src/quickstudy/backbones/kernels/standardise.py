"""Batch and group normalisation with a closed-form second derivative.

    m = E[x],  r = (E[(x - m)²] + ε)^-1/2,  z = (x - m) r,  y = weight z + bias

E is the mean over all values that share statistics: a channel's positions in all rows (batch norm),
or the positions of a group of channels in one row (group norm). Both start from sums over each
channel's positions, so the same formulas hold for both.

y and its first derivative use torch's kernels. Second-order learners also differentiate the
derivative: torch then makes some thirty passes over x, a third of an inner step on a CPU; the
closed form makes a dozen. The third derivative of torch's batch norm is also wrong, since its
second derivative treats m and r as constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from quickstudy.base.modules import channels_last, custom_gradient_allowed, in_torch_func, mapped

EPSILON = 1e-5
_MAX_SEQUENTIAL = 2**10
"""How many float32 values may be summed one by one (in channels last torch does) for 5 digits."""


@dataclass(frozen=True)
class Sharing:
    """Which values share statistics: ``groups`` of channels per row or, with None, all rows."""

    groups: int | None = None

    def sums(self, x: Tensor) -> Tensor:
        """Sums over positions, and with batch statistics over rows: (n or 1, channels, 1 …)."""
        positions = tuple(range(2, x.ndim))
        of_rows = x.sum(positions, keepdim=True) if positions else x
        return of_rows.sum(0, keepdim=True) if self.groups is None else of_rows

    def mean(self, sums: Tensor, x: Tensor) -> Tensor:
        """E of a quantity in the shape of x, from its :meth:`sums` (..., n or 1, channels, 1 …)."""
        positions = math.prod(x.shape[2:])
        if self.groups is None:
            return sums * (1 / (x.shape[0] * positions))
        size = x.shape[1] // self.groups
        lead = sums.shape[: sums.ndim - x.ndim + 1]
        of_groups = sums.reshape(*lead, self.groups, size).sum(-1, keepdim=True)
        means = of_groups * (1 / (size * positions))
        return means.expand(*lead, self.groups, size).reshape(sums.shape)

    def torch_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """y by torch's operator, with torch's derivatives."""
        if self.groups is None:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)
        return F.group_norm(x, self.groups, weight, bias, EPSILON)

    def values_per_sum(self, x: Tensor) -> int:
        """The number of values in each of :meth:`sums`."""
        return math.prod(x.shape[2:]) * (len(x) if self.groups is None else 1)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and r, (n or 1, channels, 1 …), by plain operations."""
        m = self.mean(self.sums(x), x)
        variance = self.mean(self.sums((x - m).square()), x)
        return m, torch.rsqrt(variance + EPSILON)


def standardised(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> Tensor:
    """y for x (n, channels, ...), ``weight`` and ``bias`` (channels,)."""
    if not _closed_form_applies(x, weight):
        return sharing.torch_norm(x, weight, bias)
    function = _Standardise if in_torch_func() else _PlainStandardise
    y: Tensor = function.apply(x, weight, bias, sharing)[0]
    return y


def _closed_form_applies(x: Tensor, weight: Tensor) -> bool:
    return custom_gradient_allowed() and x.dtype == weight.dtype and x.numel() > x.shape[1]


class _Standardise(Function):
    """y, m and r; m and r in the shape of torch's kernels: (channels,) or (n, groups)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> tuple[Tensor, ...]:
        if _torch_is_exact(x, sharing):
            return _kernel(x, weight, bias, sharing)
        m, r = _exact_statistics(x, sharing)
        scale = _broadcast(weight, x) * _broadcast(r, x)
        shift = torch.addcmul(_broadcast(bias, x), _broadcast(m, x), scale, value=-1)
        return torch.addcmul(shift, x, scale), m, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.sharing = inputs
        _, m, r = output
        ctx.mark_non_differentiable(m, r)
        ctx.save_for_backward(x, weight, m, r)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, m, r = ctx.saved_tensors
        if mapped(g) and not in_torch_func():
            return *_gradient_by_torch(g, x, weight, ctx.sharing), None
        if not (torch.is_grad_enabled() or in_torch_func()):
            return *_gradient_kernel(g, x, weight, m, r, ctx.sharing), None
        function = _Gradient if in_torch_func() else _PlainGradient
        return *function.apply(g, x, weight, m, r, ctx.sharing), None


class _Gradient(Function):
    """The gradients of x, weight and bias for g, the gradient of y.

    With h = weight g:  r (h - E[h] - z E[h z]),  sum g z,  sum g.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, m: Tensor, r: Tensor, sharing: Sharing
    ) -> tuple[Tensor, ...]:
        return _gradient_kernel(g, x, weight, m, r, sharing)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.sharing = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, v: Tensor, v_weight: Tensor, v_bias: Tensor) -> tuple[Any, ...]:
        g, x, weight, m, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative follows: m and r are functions of x
            m, r = ctx.sharing.statistics(x)
        else:
            m, r = (_broadcast(t, x) for t in (m, r))
        w, v_w, v_b = (_broadcast(t, x) for t in (weight, v_weight, v_bias))
        z = torch.addcmul(-m * r, x, r)
        sum_g, sum_gz, sum_v, sum_vz, sum_vg = map(ctx.sharing.sums, (g, g * z, v, v * z, v * g))
        # t = v_w g enters the gradient of x through v_w, as h = w g does through v.
        of_h = w * torch.stack((sum_g, sum_gz, sum_vg))
        of_t = v_w * torch.stack((sum_g, sum_gz))
        of_v = torch.stack((sum_v, sum_vz))
        h, hz, vh, t, tz, ev, evz = ctx.sharing.mean(torch.cat((of_h, of_t, of_v)), x)
        # The gradient is linear in h, and symmetric: that of h is r (v - E[v] - z E[v z]).
        scale = w * r
        to_g = torch.addcmul(torch.addcmul(v_b, scale, ev, value=-1), v, scale)
        to_g = torch.addcmul(to_g, z, torch.addcmul(v_w, scale, evz, value=-1))
        square = r * r
        to_x = torch.addcmul(square * (hz * ev + evz * h) - r * t, v, -square * hz)
        to_x = torch.addcmul(to_x, g, r * (v_w - scale * evz))
        to_x = torch.addcmul(to_x, z, square * (ev * h + 3 * evz * hz - vh) - r * tz)
        to_weight = (r * (sum_vg - ev * sum_g - evz * sum_gz)).sum(0).flatten()
        return to_g, to_x, to_weight, None, None, None


def _gradient_by_torch(
    g: Tensor, x: Tensor, weight: Tensor, sharing: Sharing
) -> tuple[Tensor, ...]:
    """As :class:`_Gradient`, by plain operations that torch can differentiate again."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x, weight = (t if t.requires_grad else t.detach().requires_grad_() for t in (x, weight))
        bias = torch.zeros_like(weight, requires_grad=True)
        m, r = sharing.statistics(x)
        y = (x - m) * r * _broadcast(weight, x) + _broadcast(bias, x)
        return torch.autograd.grad(y, (x, weight, bias), g, create_graph=recorded)


def _plain(function: type[Function]) -> type[Function]:
    """``function`` without support for ``torch.func``, which costs 0.05 ms per call."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function.forward(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(f"{function.__name__}Plain", (Function,), methods)


_PlainStandardise, _PlainGradient = _plain(_Standardise), _plain(_Gradient)


def _kernel(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> tuple[Tensor, ...]:
    if sharing.groups is None:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON)
    x = x.contiguous(memory_format=_layout(x))
    return torch.native_group_norm(x, weight, bias, *_sizes(x), sharing.groups, EPSILON)


def _gradient_kernel(
    g: Tensor, x: Tensor, weight: Tensor, m: Tensor, r: Tensor, sharing: Sharing
) -> tuple[Tensor, ...]:
    aten, wanted = torch.ops.aten, [True] * 3
    if sharing.groups is None:
        arguments = (weight, None, None, m, r)
        gradients = aten.native_batch_norm_backward(g, x, *arguments, True, EPSILON, wanted)
    else:
        g, x = (t.contiguous(memory_format=_layout(x)) for t in (g, x))
        statistics = (m, r, weight, *_sizes(x), sharing.groups)
        gradients = aten.native_group_norm_backward(g, x, *statistics, wanted)
    return tuple(gradients)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Numbers of rows, channels and positions."""
    return len(x), x.shape[1], math.prod(x.shape[2:])


def _broadcast(table: Tensor, x: Tensor) -> Tensor:
    """(channels,) or (n, groups) reshaped to (n or 1, channels, 1 …), to broadcast with x."""
    positions = [1] * (x.ndim - 2)
    if table.ndim == 1:
        return table.reshape(-1, x.shape[1], *positions)
    n, groups = table.shape
    size = x.shape[1] // groups
    return table.unsqueeze(-1).expand(n, groups, size).reshape(n, -1, *positions)


def _layout(x: Tensor) -> torch.memory_format:
    """The layout of x, channels last or contiguous: torch's kernels need all operands in one.

    Contiguous under vmap, where other operands may be batched and cannot be channels last.
    """
    last = channels_last(x) and not in_torch_func()
    return torch.channels_last if last else torch.contiguous_format


def _torch_is_exact(x: Tensor, sharing: Sharing) -> bool:
    """Whether torch's kernels compute m and r accurately.

    For channels last they sum float32 values one by one, which loses digits for large maps. Given
    m and r, their other arithmetic is accurate in both layouts.
    """
    short_sums = sharing.values_per_sum(x) <= _MAX_SEQUENTIAL
    return short_sums or x.dtype != torch.float32 or not channels_last(x)


def _exact_statistics(x: Tensor, sharing: Sharing) -> tuple[Tensor, Tensor]:
    """m and r of maps in channels last, accurate in float32: (channels,) or (n, groups)."""
    n, channels, height, _ = x.shape
    if sharing.groups is not None:
        m, r = (s.reshape(n, sharing.groups, -1)[..., 0] for s in sharing.statistics(x))
        return m.contiguous(), r.contiguous()  # torch's kernel requires it
    # Split long sums: in channels last, maps are viewed as ``few`` rows of (part, channel) columns,
    # so that torch's kernel sums only ``few`` values one by one. The parts are averaged below.
    few = max(k for k in range(1, _MAX_SEQUENTIAL // 4) if n * height % k == 0)
    of_parts = x.permute(0, 2, 3, 1).reshape(1, few, 1, -1).permute(0, 3, 1, 2)
    means, variances = (
        s.view(-1, channels)
        for s in torch.batch_norm_update_stats(of_parts, None, None, 0.0)  # biased variances
    )
    m = means.mean(0)
    return m, torch.rsqrt((variances + (means - m).square()).mean(0) + EPSILON)
