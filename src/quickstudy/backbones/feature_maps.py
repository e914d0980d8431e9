"""Feature maps of several resolutions: joined to one, or read from coarse to fine for each pixel.

A backbone gives maps as vectors, one map after the other, and ``map_shapes`` says where each lies:
:class:`quickstudy.backbones.EfficientNetLite` with ``maps=True``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_sizes
from quickstudy.backbones.norms import make_norm

Shapes = tuple[tuple[int, int, int], ...]


def unpacked(vectors: Tensor, shapes: Shapes) -> list[Tensor]:
    """Vectors (n, d) as maps (n, channels, height, width), one for each of ``shapes``."""
    sizes = [math.prod(shape) for shape in shapes]
    return [
        part.unflatten(1, shape)
        for part, shape in zip(vectors.split(sizes, 1), shapes, strict=True)
    ]


class JoinedMaps(nn.Module):
    """Maps as vectors (n, d) -> one map (n, channels, side, side), of all their channels.

    Each position of each map is divided by its length, so that a map of larger numbers does not
    decide alone; then smaller maps are enlarged and larger ones reduced (bilinear, antialiased).

    With ``width`` each map is first projected to so many channels (1x1 convolution), and their sum
    h is filtered: h + convolution(ReLU(h)), 3x3. This can be learnt over tasks where the backbone
    is frozen.

    ``shapes``  of the maps: the backbone's ``map_shapes``.
    ``side``    of the map that it gives.
    ``chosen``  which maps it takes, by number from 0; None for all.
    ``width``   channels of the filtered map; None for no filter.

    Raises ValueError for no maps, a side or a width below 1, and a number that is none of a map.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.pretrained("efficientnet-lite0", size=64, maps=True)
    >>> joined = qs.backbones.JoinedMaps(backbone.map_shapes, side=16, chosen=(2, 3))
    >>> joined(backbone(torch.rand(2, 3, 64, 64))).shape
    torch.Size([2, 152, 16, 16])
    """

    def __init__(
        self,
        shapes: Shapes,
        side: int,
        chosen: tuple[int, ...] | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        places = tuple(range(len(shapes))) if chosen is None else chosen
        _refuse_no_maps("JoinedMaps", shapes, places)
        refuse_sizes("JoinedMaps", side=side, **({} if width is None else {"width": width}))
        self.shapes, self.side, self.chosen, self.width = shapes, side, chosen, width
        self._places = places
        self.input_shape = (sum(map(math.prod, shapes)),)
        taken = [shapes[k][0] for k in places]
        self.feature_shape = (sum(taken) if width is None else width, side, side)
        if width is not None:
            self.project = nn.ModuleList(nn.Conv2d(each, width, 1) for each in taken)
            self.filter = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n, channels, side, side)."""
        maps = unpacked(vectors, self.shapes)
        size = (self.side, self.side)
        each = [of_unit_length(maps[k], 1) for k in self._places]
        if self.width is None:
            return torch.cat([resized(one, size) for one in each], 1)
        # Numbers of about 1 whatever the channels, so that all maps count alike at first.
        each = [math.sqrt(one.shape[1]) * one for one in each]
        projected = [
            resized(layer(one), size) for layer, one in zip(self.project, each, strict=True)
        ]
        h = torch.stack(projected).sum(0)
        result: Tensor = h + self.filter(h.relu())
        return result


class PixelMaps(nn.Module):
    """Maps as vectors (n, d) -> one map (n, width, h, w) at the finest size, from coarse to fine.

        h_1 = filter(project_1 m_1),   h_k = filter(project_k m_k + enlarge h_{k-1})

    for the maps m from the smallest to the largest, with ``filter`` a 3x3 convolution and ReLU.
    Each position of a map is divided by its root mean square, so that all maps count alike;
    pictures, of 1 or 3 channels, stay as they are. There is no norm: one over channels or positions
    would let the background, most of a picture, decide the scale of the rest. For learners that
    fine-tune it on a support set, such as :class:`quickstudy.PixelHead`.

    ``shapes``  of the maps: the backbone's ``map_shapes``.
    ``width``   channels.

    Raises ValueError for no maps, and for a width below 1.

    Reference: Lin, Dollár, Girshick, He, Hariharan and Belongie (2017), Feature Pyramid Networks
    for Object Detection, section 3.
    Differs from the paper in the ReLU after each merge, in bilinear enlargement, and in giving the
    finest map alone.
    """

    def __init__(self, shapes: Shapes, width: int = 16) -> None:
        super().__init__()
        _refuse_no_maps("PixelMaps", shapes, range(len(shapes)))
        refuse_sizes("PixelMaps", width=width)
        self.shapes, self.width = shapes, width
        self.input_shape = (sum(map(math.prod, shapes)),)
        self._order = sorted(range(len(shapes)), key=lambda k: shapes[k][-1])
        self.feature_shape = (width, *shapes[self._order[-1]][1:])
        self.project = nn.ModuleList(nn.Conv2d(shape[0], width, 1) for shape in shapes)
        self.filters = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in shapes)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n, width, h, w)."""
        maps, h = unpacked(vectors, self.shapes), vectors.new_zeros(())
        for place, k in enumerate(self._order):
            now = self.project[k](_as_large(maps[k]))
            h = self.filters[k](now + resized(h, now.shape[-2:]) if place else now).relu()
        return h


class PixelNet(nn.Module):
    """Pictures (n, channels, h, w) -> one map (n, width, h / 2, w / 2): a small U-net.

    Four levels of 3x3 convolutions, each half as large as the one before, the first half as large
    as the picture; then back, with what was found at each size joined on the way. For learners that
    train it on a support set alone, and so the baseline of pretrained maps.

    ``in_channels``  of the pictures.
    ``width``        channels of the finest level, and of the map that it gives.

    Raises ValueError for channels or a width below 1.

    Reference: Ronneberger, Fischer and Brox (2015), U-Net: Convolutional Networks for Biomedical
    Image Segmentation.
    Differs from the paper in size (four levels of at most 4 width channels, one convolution each),
    in group norms, in padding and in bilinear enlargement.
    """

    def __init__(self, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        refuse_sizes("PixelNet", in_channels=in_channels, width=width)
        self.in_channels, self.width = in_channels, width
        down = [in_channels, width, 2 * width, 4 * width, 4 * width]
        up = [(8 * width, 2 * width), (4 * width, width), (2 * width, width)]
        self.down = nn.ModuleList(unit(*pair) for pair in pairwise(down))
        self.up = nn.ModuleList(unit(*pair) for pair in up)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, width, h / 2, w / 2), rounded up."""
        h, found = pictures - 0.5, []
        for level in self.down:
            h = level(F.avg_pool2d(h, 2, ceil_mode=True))
            found.append(h)
        for level, finer in zip(self.up, found[-2::-1], strict=True):
            h = level(torch.cat([resized(h, finer.shape[-2:]), finer], 1))
        return h


def unit(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution, a norm over groups of channels, and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), make_norm("group", outputs), nn.ReLU()
    )


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (n, channels, h, w) as (n, channels, *size), bilinear, antialiased where reduced."""
    if maps.shape[-2:] == tuple(size):
        return maps
    smaller = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return F.interpolate(maps, tuple(size), mode="bilinear", antialias=smaller)


def of_unit_length(vectors: Tensor, axis: int = -1) -> Tensor:
    """``vectors`` along ``axis`` divided by their length; zeros stay zeros, also in derivatives."""
    squares = vectors.square().sum(axis, keepdim=True)
    some = squares > torch.finfo(vectors.dtype).tiny
    return vectors * torch.where(some, torch.where(some, squares, 1.0).rsqrt(), 0.0)


def _as_large(maps: Tensor) -> Tensor:
    """Maps of numbers of about 1 at each position; pictures as they are."""
    channels = maps.shape[1]
    return maps if channels in _PICTURES else math.sqrt(channels) * of_unit_length(maps, 1)


_PICTURES = (1, 3)
"""Channels of pictures, whose brightness counts."""


def _refuse_no_maps(who: str, shapes: Shapes, places: Sequence[int]) -> None:
    if not places or any(k not in range(len(shapes)) for k in places):
        raise ValueError(
            f"{who}: needs at least one map, by its number from 0 to {len(shapes) - 1}; found "
            f"{list(places)}. Give the backbone's map_shapes: qs.pretrained(name, maps=True)."
        )
