"""The head of CenterNet: where the centres of objects are, and how large the objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_sizes

RARE = math.log(0.1 / 0.9)
"""Logit of a centre at first: a tenth, as in CenterNet, since nearly all positions are none."""
FIRST_SIZE = math.log(0.25)
"""Logarithm of width and height at first, as shares of the picture."""


class Centres(NamedTuple):
    """What the head says at each position of a map.

    ``heat``    (n, h, w) logits: whether the centre of an object lies in this cell.
    ``hidden``  (n, channels, h, w) what the two others are linear in.
    """

    heat: Tensor
    hidden: Tensor


class CentreHead(nn.Module):
    """Maps (n, channels, h, w) -> :class:`Centres`; edges of boxes by :meth:`boxes`.

        hidden = ReLU(convolution(maps)), 3x3
        heat   = w · hidden + b
        box    = centre ± size / 2,   centre = cell + offset,   (offset, log size) = V hidden + c

    Offsets are in cells, from the middle of a cell; sizes are shares of the picture. The same head
    finds objects of all classes.

    ``channels``  of the maps.
    ``width``     channels of ``hidden``.

    Raises ValueError for channels or a width below 1.

    Reference: Zhou, Wang and Krähenbühl (2019), Objects as Points, section 4.
    Differs from the paper in one heat map for all classes, in one hidden layer for all three
    outputs, and in the logarithm of the size.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        refuse_sizes("CentreHead", channels=channels, width=width)
        self.channels, self.width = channels, width
        self.hidden = nn.Conv2d(channels, width, 3, padding=1)
        self.heat, self.edges = nn.Linear(width, 1), nn.Linear(width, 4)
        with torch.no_grad():
            self.heat.bias.fill_(RARE)
            self.edges.weight.mul_(0.1)
            self.edges.bias.copy_(torch.tensor([0.0, 0.0, FIRST_SIZE, FIRST_SIZE]))

    def forward(self, maps: Tensor) -> Centres:
        """The heat and the hidden layer."""
        hidden = self.hidden(maps).relu()
        heat = torch.einsum("nchw,c->nhw", hidden, self.heat.weight[0]) + self.heat.bias
        return Centres(heat, hidden)

    def boxes(
        self, hidden: Tensor, cells: Tensor, size: tuple[int, int], edges: Weights | None = None
    ) -> Tensor:
        """The boxes (n, s, 4) of the objects whose centres lie in ``cells``.

        ``hidden``  (n, s, width) of these cells.
        ``cells``   (n, s) their numbers, row after row.
        ``size``    (h, w) of the map.
        ``edges``   weight (4, width) and bias (4,) in place of the head's own.
        """
        weight, bias = edges or (self.edges.weight, self.edges.bias)
        offset, size_log = (hidden @ weight.mT + bias).split(2, -1)
        h, w = size
        scale = hidden.new_tensor([w, h])
        cell = torch.stack([cells % w, cells // w], -1).to(hidden.dtype)
        centre = (cell + 0.5 + offset) / scale
        half = size_log.clamp(LEAST_LOG, 0.0).exp() / 2
        return torch.cat([centre - half, centre + half], -1)

    def aims(self, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """For true boxes (n, m, 4): the cells (n, m) of their centres, and the outputs (n, m, 4)
        that :meth:`boxes` would turn into these boxes."""
        h, w = size
        scale = boxes.new_tensor([w, h])
        centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        cell = (centre * scale).floor().clamp_min(0).minimum(scale - 1)
        offset = centre * scale - cell - 0.5
        size_log = extent.clamp(math.exp(LEAST_LOG), 1.0).log()
        return (cell[..., 1] * w + cell[..., 0]).long(), torch.cat([offset, size_log], -1)


Weights = tuple[Tensor, Tensor]

LEAST_LOG = math.log(1e-3)
"""Of width and height, as shares of the picture."""
