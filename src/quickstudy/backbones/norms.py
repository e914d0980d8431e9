"""Normalisation layers; the choice decides whether predictions depend on other queries.

    group     statistics of each row alone                                   inductive
    batch     statistics of the rows of the call, as in MAML's paper         transductive
    support   statistics of the support set, reused for its queries          inductive
    running   in training, statistics of the rows of the call; afterwards
              fixed statistics, estimated over many training tasks           inductive

``adapt`` must change nothing in the module and work under vmap, so no layer here updates buffers in
``forward``. :func:`embed_support` and :func:`embed_query` pass the layers what they need in
addition to their input: row weights, and statistics to reuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.kernels.standardise import EPSILON, Sharing, standardised
from quickstudy.base.modules import sees_other_rows
from quickstudy.base.shown import shown
from quickstudy.base.weighting import counting, current_weights
from quickstudy.core import Examples

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance (channels,) of each support-normalised layer, in order of execution."""


@dataclass(frozen=True)
class _Pass:
    """What norms get in one forward pass in addition to their input and the row weights."""

    record: Statistics | None = None  # where support statistics are written
    reuse: Iterator[tuple[Tensor, Tensor]] | None = None  # support statistics to use
    moments: dict[RunningNorm, Moments] | None = None  # sums for population statistics


_current: ContextVar[_Pass] = ContextVar("quickstudy_norm_pass", default=_Pass())  # noqa: B039


@contextmanager
def _set(new: _Pass) -> Iterator[None]:
    token = _current.set(new)
    try:
        yield
    finally:
        _current.reset(token)


def embed_support(net: Callable[[Any], Tensor], support: Examples) -> tuple[Tensor, Statistics]:
    """``net(support.inputs)`` (n, d), and the statistics to reuse for its queries."""
    statistics: Statistics = []
    with counting(support.weights), _set(replace(_current.get(), record=statistics, reuse=None)):
        return _features(net, support.inputs), statistics


def embed_query(net: Callable[[Any], Tensor], inputs: Any, statistics: Statistics) -> Tensor:
    """``net(inputs)`` (n, d), normalised by the statistics of the support set."""
    with _set(replace(_current.get(), record=None, reuse=iter(statistics))):
        return _features(net, inputs)


def _features(net: Callable[[Any], Tensor], inputs: Any) -> Tensor:
    """``net(inputs)``; ValueError for a backbone that gives anything but a tensor."""
    features = net(inputs)
    if isinstance(net, nn.Module) and not isinstance(features, Tensor):
        raise ValueError(
            f"backbone: must give a tensor of features (n, ...); found {type(features).__name__} "
            f"from {type(net).__name__}. Wrap it in a module whose forward returns the part that "
            "holds the features, for example output[0]."
        )
    return features


def ignores_weights(net: nn.Module) -> list[str]:
    """Names of the modules whose batch statistics ignore row weights.

    torch's batch norms do; a layer of your own that uses them sets ``counts_weights = True``.
    """

    def ignores(module: nn.Module) -> bool:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return module.training or module.running_mean is None
        mixes = getattr(module, "sees_other_rows", False)
        return bool(mixes and not getattr(module, "counts_weights", False))

    return [name for name, module in net.named_modules() if ignores(module)]


def rows_see_one_another(net: nn.Module) -> bool:
    """Whether the output of ``net`` for a row depends on other rows, or on a support set."""
    return any(mixes_rows(module) for module in net.modules())


def mixes_rows(module: nn.Module) -> bool:
    """Whether the output of this layer for a row depends on other rows, or on a support set."""
    return isinstance(module, SupportNorm) or sees_other_rows(module)


def needs_support_statistics(net: nn.Module) -> bool:
    """Whether ``net`` has layers that reuse support statistics."""
    return any(isinstance(module, SupportNorm) for module in net.modules())


class _ChannelNorm(nn.Module):
    """Normalisation per channel and an affine map; subclasses choose the statistics."""

    counts_weights = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def _with_row_statistics(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of the rows of ``x``."""
        if current_weights() is None:
            return standardised(x, self.weight, self.bias, Sharing())
        return self._with_statistics(x, *row_statistics(x))

    def _with_statistics(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        # Statistics and affine map as one multiply-add, since x is far larger than the vectors.
        scale = self.weight * torch.rsqrt(variance + EPSILON)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return x * scale.reshape(shape) + (self.bias - mean * scale).reshape(shape)


def row_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance (channels,) of x (rows, channels, ...), weighted by row."""
    weights = current_weights()
    positions = [d for d in range(x.ndim) if d != 1]
    if weights is None:  # torch.var_mean is five times slower for channels last
        mean = x.mean(positions)
        return mean, (x - mean.reshape(1, -1, *[1] * (x.ndim - 2))).square().mean(positions)
    weights = weights.to(x.dtype)
    share = weights / weights.sum().clamp_min(torch.finfo(x.dtype).tiny)
    share = share.reshape(-1, *[1] * (x.ndim - 1)) / (x[0, 0].numel() or 1)
    mean = (share * x).sum(positions)
    centred = x - mean.reshape(1, -1, *[1] * (x.ndim - 2))
    return mean, (share * centred.square()).sum(positions)


class BatchNorm(_ChannelNorm):
    """Statistics of the rows of the call: queries affect one another, so it is transductive."""

    sees_other_rows = True

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        return self._with_row_statistics(x)


class SupportNorm(_ChannelNorm):
    """Statistics of the support set, for support and queries (TaskNorm's inductive form).

    Reference: Bronskill et al. (2020), TaskNorm: Rethinking Batch Normalization for Meta-Learning,
    section 4.1 (there called MetaBN).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        now = _current.get()
        if now.reuse is not None:
            return self._with_statistics(x, *next(now.reuse))
        if now.record is None:
            raise RuntimeError(
                "norm='support': this layer must be called for support or for query rows; found "
                "neither. Call the backbone by backbones.norms.embed_support and embed_query."
            )
        statistics = row_statistics(x)
        now.record.append(statistics)
        return self._with_statistics(x, *statistics)


class RunningNorm(_ChannelNorm):
    """Batch statistics while training; fixed population statistics in evaluation mode.

    Unlike in ``nn.BatchNorm2d``, ``forward`` does not update the population statistics: ``fit``
    estimates them from tasks (:func:`quickstudy.training.population.estimate_population`), so
    ``adapt`` changes nothing. For learners that do not adapt the backbone.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    @property
    def sees_other_rows(self) -> bool:
        """True in training mode."""
        return self.training

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        moments = _current.get().moments
        if moments is not None and self.training:  # in evaluation mode statistics stay
            moments.setdefault(self, Moments()).add(x)
        if self.training:
            return self._with_row_statistics(x)
        return self._with_statistics(x, self.mean, self.variance)


@dataclass
class Moments:
    """Sums over all rows and positions that a layer was given, in float64."""

    count: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Add the rows of x (n, channels, ...), weighted."""
        weights = current_weights()
        weights = x.new_ones(len(x)) if weights is None else weights
        weights = weights.double()
        values = x.detach().double().flatten(2) if x.ndim > 2 else x.detach().double()[..., None]
        self.count += float(weights.sum()) * values.shape[2]
        self.total = self.total.to(x.device) + weights @ values.sum(2)
        self.squares = self.squares.to(x.device) + weights @ values.square().sum(2)


@contextmanager
def estimating() -> Iterator[None]:
    """On exit, set the population statistics of each :class:`RunningNorm` that ran inside."""
    moments: dict[RunningNorm, Moments] = {}
    with _set(replace(_current.get(), moments=moments)):
        yield
    for layer, sums in moments.items():
        mean = sums.total / sums.count
        layer.mean.copy_(mean)
        layer.variance.copy_((sums.squares / sums.count - mean.square()).clamp_min(0))


class GroupNorm(nn.GroupNorm):
    """Statistics of each row alone, over groups of eight channels (or of all, if not divisible)."""

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // 8) if channels % 8 == 0 else 1, channels, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        return standardised(x, self.weight, self.bias, Sharing(self.num_groups))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": GroupNorm,
    "batch": BatchNorm,
    "support": SupportNorm,
    "running": RunningNorm,
}


def make_norm(norm: str, channels: int) -> nn.Module:
    """The layer for a norm's name: "group", "batch", "support" or "running"."""
    if norm not in NORMS:
        raise ValueError(f"norm: must be one of {', '.join(NORMS)}; found {shown(norm)}.")
    return NORMS[norm](channels)


def norm_policy(module: nn.Module) -> str:
    """The names of the norms inside ``module``, for reports: "group", "batch", …, or "none".

    A layer that is no subclass of a norm has the name in its attribute ``norm_name``, if any.
    """
    kinds = {kind for m in module.modules() for kind in type(m).__mro__}  # frozen: a subclass
    found = {name for name, cls in NORMS.items() if cls in kinds}
    found |= {name for m in module.modules() if (name := getattr(m, "norm_name", ""))}
    found |= {
        f"torch {type(m).__name__}"
        for m in module.modules()
        if isinstance(m, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
        and not isinstance(m, GroupNorm)
    }
    return " + ".join(sorted(found)) or "none"
