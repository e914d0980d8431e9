"""Normalisation by statistics of the rows at hand, whose second derivative is in closed form.

    m = E[x],  r = (E[(x - m)²] + ε)^-1/2,  z = (x - m) r,  y = weight z + bias

E averages over what shares its statistics: the positions of a channel in all rows (batch norm) or
of a group of channels in one row (group norm). Both begin with sums over each channel's positions,
so one derivation serves both.

y and its first derivative are torch's own kernels. Second-order learners differentiate the
derivative too: torch takes that through some thirty passes over x, a third of an inner step on a
CPU; in closed form it is a dozen. And what torch's batch norm gives as a third derivative is wrong,
since its second counts m and r as constants.
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
_FEW = 2**10
"""Values that torch's kernels for channels last may add one by one in float32: five digits stay."""


@dataclass(frozen=True)
class Sharing:
    """Who shares statistics: ``groups`` of channels in each row, or, with None, all rows."""

    groups: int | None = None

    def sums(self, x: Tensor) -> Tensor:
        """Of each channel over positions, and over rows that share: (n or 1, channels, 1 …)."""
        positions = tuple(range(2, x.ndim))
        of_rows = x.sum(positions, keepdim=True) if positions else x
        return of_rows.sum(0, keepdim=True) if self.groups is None else of_rows

    def mean(self, sums: Tensor, x: Tensor) -> Tensor:
        """E, from the sums (..., n or 1, channels, 1 …) of a quantity that x has the shape of."""
        positions = math.prod(x.shape[2:])
        if self.groups is None:
            return sums * (1 / (x.shape[0] * positions))
        size = x.shape[1] // self.groups
        lead = sums.shape[: sums.ndim - x.ndim + 1]
        of_groups = sums.reshape(*lead, self.groups, size).sum(-1, keepdim=True)
        means = of_groups * (1 / (size * positions))
        return means.expand(*lead, self.groups, size).reshape(sums.shape)

    def by_torch(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """y, differentiated by torch."""
        if self.groups is None:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)
        return F.group_norm(x, self.groups, weight, bias, EPSILON)

    def added_up(self, x: Tensor) -> int:
        """How many values a sum over positions, and over rows that share, has."""
        return math.prod(x.shape[2:]) * (len(x) if self.groups is None else 1)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and r, (n or 1, channels, 1 …), by plain operations."""
        m = self.mean(self.sums(x), x)
        variance = self.mean(self.sums((x - m).square()), x)
        return m, torch.rsqrt(variance + EPSILON)


def standardised(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> Tensor:
    """y of x (n, channels, ...), under ``weight`` and ``bias`` (channels,)."""
    if not _closed_form_serves(x, weight):
        return sharing.by_torch(x, weight, bias)
    function = _Standardise if in_torch_func() else _PlainStandardise
    y: Tensor = function.apply(x, weight, bias, sharing)[0]
    return y


def _closed_form_serves(x: Tensor, weight: Tensor) -> bool:
    return custom_gradient_allowed() and x.dtype == weight.dtype and x.numel() > x.shape[1]


class _Standardise(Function):
    """y, with m and r as torch's kernels give them: (channels,) or (n, groups)."""

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
            return *_slope_by_torch(g, x, weight, ctx.sharing), None
        if not (torch.is_grad_enabled() or in_torch_func()):
            return *_kernel_slope(g, x, weight, m, r, ctx.sharing), None
        function = _Slope if in_torch_func() else _PlainSlope
        return *function.apply(g, x, weight, m, r, ctx.sharing), None


class _Slope(Function):
    """The cotangents of x, weight and bias that g, that of y, gives.

    With h = weight g:  r (h - E[h] - z E[h z]),  sum g z,  sum g.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, m: Tensor, r: Tensor, sharing: Sharing
    ) -> tuple[Tensor, ...]:
        return _kernel_slope(g, x, weight, m, r, sharing)

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
        # With t = v_w g, which v_w adds to what x gets, as h does through the slope.
        of_h = w * torch.stack((sum_g, sum_gz, sum_vg))
        of_t = v_w * torch.stack((sum_g, sum_gz))
        of_v = torch.stack((sum_v, sum_vz))
        h, hz, vh, t, tz, ev, evz = ctx.sharing.mean(torch.cat((of_h, of_t, of_v)), x)
        # The slope is linear in h, and symmetric: v goes back as h came, r (v - E[v] - z E[v z]).
        scale = w * r
        to_g = torch.addcmul(torch.addcmul(v_b, scale, ev, value=-1), v, scale)
        to_g = torch.addcmul(to_g, z, torch.addcmul(v_w, scale, evz, value=-1))
        square = r * r
        to_x = torch.addcmul(square * (hz * ev + evz * h) - r * t, v, -square * hz)
        to_x = torch.addcmul(to_x, g, r * (v_w - scale * evz))
        to_x = torch.addcmul(to_x, z, square * (ev * h + 3 * evz * hz - vh) - r * tz)
        to_weight = (r * (sum_vg - ev * sum_g - evz * sum_gz)).sum(0).flatten()
        return to_g, to_x, to_weight, None, None, None


def _slope_by_torch(g: Tensor, x: Tensor, weight: Tensor, sharing: Sharing) -> tuple[Tensor, ...]:
    """As :class:`_Slope`, recorded by torch."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x, weight = (t if t.requires_grad else t.detach().requires_grad_() for t in (x, weight))
        bias = torch.zeros_like(weight, requires_grad=True)
        m, r = sharing.statistics(x)
        y = (x - m) * r * _broadcast(weight, x) + _broadcast(bias, x)
        return torch.autograd.grad(y, (x, weight, bias), g, create_graph=recorded)


def _plain(function: type[Function]) -> type[Function]:
    """``function`` without the ways of ``torch.func``, whose every call takes 0.05 ms."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function.forward(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    ways = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(f"{function.__name__}Plain", (Function,), ways)


_PlainStandardise, _PlainSlope = _plain(_Standardise), _plain(_Slope)


def _kernel(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> tuple[Tensor, ...]:
    if sharing.groups is None:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON)
    x = x.contiguous(memory_format=_layout(x))
    return torch.native_group_norm(x, weight, bias, *_sizes(x), sharing.groups, EPSILON)


def _kernel_slope(
    g: Tensor, x: Tensor, weight: Tensor, m: Tensor, r: Tensor, sharing: Sharing
) -> tuple[Tensor, ...]:
    aten, wanted = torch.ops.aten, [True] * 3
    if sharing.groups is None:
        own = (weight, None, None, m, r)
        slopes = aten.native_batch_norm_backward(g, x, *own, True, EPSILON, wanted)
    else:
        g, x = (t.contiguous(memory_format=_layout(x)) for t in (g, x))
        of = (m, r, weight, *_sizes(x), sharing.groups)
        slopes = aten.native_group_norm_backward(g, x, *of, wanted)
    return tuple(slopes)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Rows, channels, positions."""
    return len(x), x.shape[1], math.prod(x.shape[2:])


def _broadcast(table: Tensor, x: Tensor) -> Tensor:
    """(channels,) or (n, groups) as (n or 1, channels, 1 …), to lie over x."""
    positions = [1] * (x.ndim - 2)
    if table.ndim == 1:
        return table.reshape(-1, x.shape[1], *positions)
    n, groups = table.shape
    size = x.shape[1] // groups
    return table.unsqueeze(-1).expand(n, groups, size).reshape(n, -1, *positions)


def _layout(x: Tensor) -> torch.memory_format:
    """Channels last where x has it; torch's kernels ask for one or the other.

    Under vmap another operand may be mapped, which knows of the plain layout alone.
    """
    last = channels_last(x) and not in_torch_func()
    return torch.channels_last if last else torch.contiguous_format


def _torch_is_exact(x: Tensor, sharing: Sharing) -> bool:
    """Whether torch's kernels find m and r well: those for channels last add up one by one.

    What they then do with m and r is as exact in either layout.
    """
    few = sharing.added_up(x) <= _FEW
    return few or x.dtype != torch.float32 or not channels_last(x)


def _exact_statistics(x: Tensor, sharing: Sharing) -> tuple[Tensor, Tensor]:
    """m and r of maps that lie channels last: (channels,) or (n, groups)."""
    n, channels, height, _ = x.shape
    if sharing.groups is not None:
        m, r = (s.reshape(n, sharing.groups, -1)[..., 0] for s in sharing.statistics(x))
        return m.contiguous(), r.contiguous()  # torch's kernel takes it for granted
    # Channels last, the channels of neighbouring positions lie side by side. With (position,
    # channel) for a channel torch's kernel is as fast, and adds few values one by one.
    few = max(k for k in range(1, _FEW // 4) if n * height % k == 0)
    of_parts = x.permute(0, 2, 3, 1).reshape(1, few, 1, -1).permute(0, 3, 1, 2)
    means, variances = (
        s.view(-1, channels)
        for s in torch.batch_norm_update_stats(of_parts, None, None, 0.0)  # biased variances
    )
    m = means.mean(0)
    return m, torch.rsqrt((variances + (means - m).square()).mean(0) + EPSILON)
