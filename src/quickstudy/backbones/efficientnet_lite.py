"""EfficientNet-Lite: small convolutional networks for photographs, made for plain processors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.base.modules import fast_on_cpu, values_can_be_read

EPSILON = 1e-3
"""Added to the variance in each norm; the value that the published weights were trained with."""


class _Scale(NamedTuple):
    """Multipliers of the width and the depth of Lite0, and the side of the pictures in pixels."""

    width: float
    depth: float
    size: int


SCALES = (_Scale(1.0, 1.0, 224), _Scale(1.0, 1.1, 240), _Scale(1.1, 1.2, 260))
"""Lite0, Lite1 and Lite2."""


class _Stage(NamedTuple):
    """Blocks of one resolution; the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
"""Of EfficientNet-B0, Table 1."""

MAPPED = (1, 2, 4, 6)
"""The stages whose outputs ``maps`` gives: the last of a resolution, at 1/4, 1/8, 1/16 and 1/32."""

_STEM, FEATURES = 32, 1280
"""Channels before and after the blocks; Lite1 and Lite2 do not widen them."""

SMALLEST_SIZE = 32
"""In pixels: the network halves the side five times."""


class EfficientNetLite(nn.Module):
    """Pictures (n, channels, height, width) in [0, 1] -> features (n, 1280).

    A stem, 16 to 23 MBConv blocks (1x1 expansion, depthwise convolution, 1x1 projection, with a
    skip where the shape stays), a 1x1 head convolution and the mean over positions; ReLU6
    throughout. With ``outputs`` a linear head follows.

    The network brings the pictures into the form that it was trained on: grey ones, of one channel,
    become three equal channels; other sizes are resized to ``size`` x ``size`` pixels (bicubic,
    antialiased, as this library and Pillow reduce pictures), and pixels become (255 p - 127) / 128.

    Norms have stored statistics, which nothing here updates: a row's features depend on no other
    row, in training too.

    ``version``  0, 1 or 2, for Lite0 (3.4 M parameters without a head), Lite1 (4.1 M) and Lite2
                 (4.8 M).
    ``size``     side in pixels to which pictures are resized, 32 or more; by default that of the
                 published weights: 224, 240 and 260. At 128, Lite0 takes a quarter of the time.
    ``outputs``  size of the linear head; None for features.
    ``maps``     True for feature maps in place of their mean: the picture itself at half of
                 ``size``, and the outputs of four stages, at 1/4, 1/8, 1/16 and 1/32, as one vector
                 (n, features). ``map_shapes`` says how they lie in it:
                 :class:`quickstudy.backbones.JoinedMaps` reads them.

    Raises ValueError for another version, a smaller size, maps with a head, and pictures of other
    shapes or of numbers from 0 to 255.

    References: Tan and Le (2019), EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks, Table 1; Liu (2020), Higher accuracy on vision models with EfficientNet-Lite (the
    TensorFlow blog), which removes squeeze-and-excitation, takes ReLU6, and keeps the size of stem
    and head.
    Differs from them in training: no dropout and no stochastic depth, so that a learner adapts to
    the same rows in the same way each time.

    >>> import torch
    >>> from quickstudy.backbones import EfficientNetLite
    >>> EfficientNetLite(size=64)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 1280])
    """

    def __init__(
        self,
        version: int = 0,
        *,
        size: int | None = None,
        outputs: int | None = None,
        maps: bool = False,
    ) -> None:
        super().__init__()
        if version not in range(len(SCALES)):
            raise ValueError(
                f"EfficientNetLite: version must be 0, 1 or 2; found {version!r}. Larger ones are "
                "not part of this library: give a module of your own, by qs.frozen."
            )
        width, depth, own_size = SCALES[version]
        size = own_size if size is None else size
        if size < SMALLEST_SIZE:
            raise ValueError(
                f"EfficientNetLite: size must be {SMALLEST_SIZE} pixels or more, since the network "
                f"halves it five times; found {size}. Smaller pictures are enlarged to it."
            )
        if maps and outputs:
            raise ValueError(
                f"EfficientNetLite: maps leave no place for a head; found outputs={outputs}. Leave "
                "one of them out."
            )
        self.version, self.size, self.outputs, self.maps = version, size, outputs, maps
        self.input_shape = (3, size, size)
        self.stem = _ConvNorm(3, _STEM, kernel=3, stride=2)
        self.blocks, ends = _blocks(width, depth)
        self._mapped = tuple(ends[stage][0] for stage in MAPPED)
        channels = [3, *(ends[stage][1] for stage in MAPPED)]
        sides = [math.ceil(size / 2**k) for k in range(1, 6)]
        self.map_shapes = tuple((c, side, side) for c, side in zip(channels, sides, strict=True))
        self.features = sum(map(math.prod, self.map_shapes)) if maps else FEATURES
        self.head_conv = nn.Identity() if maps else _ConvNorm(ends[-1][1], FEATURES)
        self.head = nn.Linear(FEATURES, outputs) if outputs else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 1280), predictions (n, outputs), or the maps as vectors (n, features)."""
        prepared = self.prepared(images)
        maps = self.stem(fast_on_cpu(prepared))
        if self.maps:
            return self._all_maps(prepared, maps)
        features = self.head_conv(self.blocks(maps)).mean((2, 3))
        result: Tensor = self.head(features)
        return result

    def _all_maps(self, prepared: Tensor, maps: Tensor) -> Tensor:
        found = [F.avg_pool2d(prepared, 2, ceil_mode=True).flatten(1)]
        for place, block in enumerate(self.blocks):
            maps = block(maps)
            if place in self._mapped:
                found.append(maps.flatten(1))
        return torch.cat(found, 1)

    def prepared(self, images: Tensor) -> Tensor:
        """Pictures as the network reads them: (n, 3, size, size), pixels from -0.99 to 1."""
        return (255 * as_colour(images, self.size, "EfficientNetLite") - 127) / 128


def as_colour(images: Tensor, size: int, who: str, resize: str = "bicubic") -> Tensor:
    """Pictures (n, 1 or 3, h, w) in [0, 1] as (n, 3, size, size).

    ``resize``  "bicubic" or "bilinear", antialiased.

    Raises ValueError, prefixed by ``who``, for other shapes, and for numbers that are no pixels in
    [0, 1]: those from 0 to 255, standardised ones, NaN.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(
            f"{who}: needs pictures (n, channels, height, width) of 1 or 3 channels; found shape "
            f"{tuple(images.shape)}. Leave an alpha channel out, and put channels before height."
        )
    _refuse_no_pixels(images.detach(), who)
    if images.shape[-2:] != (size, size):
        # The antialiased filter is not there for half precision on a CPU.
        wide = images if images.dtype == torch.float64 else images.float()
        resized = F.interpolate(wide, (size, size), mode=resize, antialias=True)
        images = resized.clamp(0, 1).to(images.dtype)  # the cubic kernel is negative in places
    return images.expand(-1, 3, -1, -1)


def _refuse_no_pixels(images: Tensor, who: str) -> None:
    if not images.is_floating_point():
        raise ValueError(
            f"{who}: pixels must be real numbers in [0, 1]; found {images.dtype}. Divide integers "
            "by 255, as qs.examples does."
        )
    if not images.numel() or not values_can_be_read(images):
        return
    least, most = (float(bound) for bound in images.aminmax())
    if not (least >= -_MARGIN and most <= 1 + _MARGIN):  # which NaN is not either
        raise ValueError(
            f"{who}: pixels must be in [0, 1]; found {least:g} to {most:g}. Divide numbers up to "
            "255 by 255, and do not standardise: scaling and mean belong to the network."
        )


_MARGIN = 0.5
"""How far pixels may lie outside of [0, 1], as after a sharpening filter or added noise."""


class _ConvNorm(nn.Module):
    """A convolution with TensorFlow's "same" padding, a norm of stored statistics, and ReLU6.

    y = min(max(W * x  γ/σ + β − μ γ/σ, 0), 6), with σ² = variance + ε. The scale γ/σ is put into
    the weights W, of which there are far fewer than positions.

    ``linear``  True leaves ReLU6 out.
    """

    norm_name = "stored"
    """For reports: the statistics were stored with the weights."""
    convolves = True
    """Its ``weight`` is that of a convolution, as in ``nn.Conv2d``."""
    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.linear = stride, groups, linear
        conv = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)  # its initial weights
        self.weight = conv.weight
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("variance", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        scale = self.scale * torch.rsqrt(self.variance + EPSILON)
        weight, bias = self.weight * scale[:, None, None, None], self.shift - self.mean * scale
        x, padding = _padded(x, self.weight.shape[-1], self.stride)
        y = F.conv2d(x, weight, bias, self.stride, padding, groups=self.groups)
        return y if self.linear else y.clamp(0, 6)


def _padded(x: Tensor, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """``x`` and the padding left for the convolution: at most one more at the end than before."""
    (top, bottom), (left, right) = (_same(side, kernel, stride) for side in x.shape[-2:])
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom)), (0, 0)


def _same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding before and after, for ⌈side / stride⌉ outputs."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class _MBConv(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand = _ConvNorm(inputs, inner) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = _ConvNorm(inner, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


def _blocks(width: float, depth: float) -> tuple[nn.Sequential, list[tuple[int, int]]]:
    """The blocks of all stages; for each stage, the place of its last block and its channels."""
    blocks, inputs, ends = nn.Sequential(), _STEM, []
    for stage in STAGES:
        fixed = stage in (STAGES[0], STAGES[-1])  # Lite scales neither of them in depth
        outputs = _widened(stage.channels, width)
        for i in range(stage.blocks if fixed else math.ceil(stage.blocks * depth)):
            stride = stage.stride if i == 0 else 1
            blocks.append(_MBConv(inputs, outputs, stage.kernel, stride, stage.expansion))
            inputs = outputs
        ends.append((len(blocks) - 1, outputs))
    return blocks, ends


def _widened(channels: int, width: float) -> int:
    """``channels`` times ``width``, as the nearest multiple of 8 that is not 10% smaller."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest
