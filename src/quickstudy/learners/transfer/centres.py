"""Steps of detection by centres: the loss of CenterNet, boxes from a heat map, pictures of boxes.

All work on boxes (left, top, right, bottom) as shares of the picture, and run under ``vmap``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.metrics import box_iou
from quickstudy.backbones.centre_head import CentreHead, Centres, Weights

OVERLAP = 0.7
"""IoU that a box keeps whose centre is moved by the radius of its Gaussian, as in CenterNet."""
SIZE_WEIGHT = 0.1
"""Weight of the loss of sizes, as in CenterNet; that of offsets is 1."""
SAME_OBJECT = 0.6
"""IoU above which the less certain of two boxes is taken to be the same object."""


def radii(extent: Tensor, overlap: float = OVERLAP) -> Tensor:
    """The largest r by which corners may move so that IoU stays at least ``overlap``.

    Boxes of ``extent`` (..., 2), in any unit -> (...) in that unit: the least of three cases, both
    corners moved in one direction, both inwards, and both outwards by r in each axis.

    Reference: Law and Deng (2018), CornerNet, section 3.2, which CenterNet follows.
    """
    around, area = extent.sum(-1), extent.prod(-1)
    along = _smaller_root(1.0, around, area * (1 - overlap) / (1 + overlap))
    inwards = _smaller_root(4.0, 2 * around, area * (1 - overlap))
    b = 2 * overlap * around
    outwards = ((b.square() + 16 * overlap * (1 - overlap) * area).sqrt() - b) / (8 * overlap)
    return torch.stack([along, inwards, outwards]).amin(0)


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Of a r² - b r + c = 0."""
    return (b - (b.square() - 4 * a * c).clamp_min(0).sqrt()) / (2 * a)


def heat_of(boxes: Tensor, exists: Tensor, size: tuple[int, int]) -> Tensor:
    """The heat map (n, h, w) that the head should give: 1 at the cell of each centre.

    Around it the Gaussian exp(-|cell - centre|² / 2σ²) with σ = (2 r + 1) / 6 and r by
    :func:`radii`; the greatest one counts where several overlap. Radii are not rounded down to
    cells, and the Gaussian is not cut off, as in CenterNet's code.

    ``boxes``   (n, m, 4); ``exists`` (n, m) which of them are no padding.
    """
    h, w = size
    scale = boxes.new_tensor([w, h])
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 * scale
    cell = centre.floor().clamp_min(0).minimum(scale - 1)
    sigma = (2 * radii((boxes[..., 2:] - boxes[..., :2]).clamp_min(0) * scale) + 1) / 6
    x, y = (torch.arange(side, dtype=boxes.dtype, device=boxes.device) for side in (w, h))
    squares = (x - cell[..., :1]).square().unsqueeze(-2) + (y - cell[..., 1:]).square().unsqueeze(
        -1
    )
    heat = (-squares / (2 * sigma.square())[..., None, None]).exp()
    return (heat * exists[..., None, None]).amax(1)


def heat_losses(logits: Tensor, true: Tensor) -> Tensor:
    """(n,): the focal loss of heat maps (n, h, w), summed over positions (equation 1).

    -(1 - p)² log p at centres, elsewhere -(1 - y)⁴ p² log(1 - p).
    """
    p = logits.sigmoid()
    at_centres = (1 - p).square() * F.logsigmoid(logits)
    elsewhere = (1 - true).pow(4) * p.square() * F.logsigmoid(-logits)
    return -torch.where(true == 1, at_centres, elsewhere).sum((1, 2))


def edge_losses(
    head: CentreHead,
    hidden: Tensor,
    boxes: Tensor,
    exists: Tensor,
    edges: Weights | None = None,
) -> Tensor:
    """(n,): the distances of offsets and sizes at the true centres, summed (equations 2 and 3).

    ``hidden``  (n, width, h, w).
    ``edges``   weight and bias in place of the head's own.
    """
    weight, bias = edges or (head.edges.weight, head.edges.bias)
    safe = boxes.where(exists.unsqueeze(-1), 0.5)
    cells, aims = head.aims(safe, (hidden.shape[-2], hidden.shape[-1]))
    distance = (at_cells(hidden, cells) @ weight.mT + bias - aims).abs()
    factors = distance.new_tensor([1.0, 1.0, SIZE_WEIGHT, SIZE_WEIGHT])
    return ((distance * factors).sum(-1) * exists).sum(-1)


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Values (n, s, channels) of maps (n, channels, h, w) in the cells (n, s)."""
    flat = maps.flatten(2).mT
    return flat.gather(1, cells.unsqueeze(-1).expand(-1, -1, flat.shape[-1]))


class Found(NamedTuple):
    """Boxes found in pictures, the most certain first.

    ``boxes``    (n, s, 4).
    ``certainty``  (n, s) that there is an object; 0 for what another box found already.
    """

    boxes: Tensor
    certainty: Tensor


def found_boxes(
    head: CentreHead, centres: Centres, slots: int, edges: Weights | None = None
) -> Found:
    """The boxes at the ``slots`` highest peaks of the heat, without those found twice.

    A peak is a cell that no neighbour exceeds. Of two boxes with an IoU above 0.6 the less certain
    one is left out: large objects may have two peaks. Maps of fewer cells give fewer boxes.
    """
    heat = centres.heat
    p = heat.sigmoid()
    highest = F.max_pool2d(p.unsqueeze(1), 3, 1, 1).squeeze(1)
    peaks = p.where(p == highest, 0.0).flatten(1)
    best = peaks.topk(min(slots, peaks.shape[1]), dim=1)
    hidden = at_cells(centres.hidden, best.indices)
    boxes = head.boxes(hidden, best.indices, (heat.shape[-2], heat.shape[-1]), edges)
    boxes = boxes.clamp(0, 1)
    kept = torch.stack([_first_of_each(each) for each in boxes.detach().unbind()])
    return Found(boxes, best.values * kept)


def _first_of_each(boxes: Tensor) -> Tensor:
    """(s,): which boxes overlap no kept one before them, from (s, 4)."""
    same = box_iou(boxes, boxes) > SAME_OBJECT
    place = torch.arange(len(boxes), device=boxes.device)
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for k in range(len(boxes)):
        kept = kept & ~(same[k] & kept[k] & (place > k))
    return kept


def pooled(maps: Tensor, boxes: Tensor) -> Tensor:
    """The mean (n, s, channels) of maps (n, channels, h, w) over the area of each box (n, s, 4)."""
    x, y = (
        _shares(boxes[..., axis], boxes[..., axis + 2], maps.shape[-1 - axis]) for axis in (0, 1)
    )
    return torch.einsum("nchw,nsh,nsw->nsc", maps, y, x)


def _shares(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """(n, s, cells): which share of the interval from ``start`` to ``end`` lies in each cell."""
    edges = torch.arange(cells + 1, dtype=start.dtype, device=start.device) / cells
    middle = (start + end) / 2
    least = 1 / (2 * cells)  # a box has at least the area of a cell
    start, end = torch.minimum(start, middle - least), torch.maximum(end, middle + least)
    inside = torch.minimum(edges[1:], end.unsqueeze(-1)) - torch.maximum(
        edges[:-1], start.unsqueeze(-1)
    )
    inside = inside.clamp_min(0)
    return inside / inside.sum(-1, keepdim=True).clamp_min(torch.finfo(inside.dtype).tiny)


def crops(pictures: Tensor, boxes: Tensor, side: int, margin: float) -> Tensor:
    """(n, s, channels, side, side): the square around each box (n, s, 4), resized.

    Its side is the longer one of the box, in pixels, times 1 + ``margin``; beyond the edge of the
    picture the outermost pixels continue. Pixels are weighted by a triangle, which is as wide as
    two pixels of the result where the picture is reduced, and else of the picture.
    """
    size = boxes.new_tensor([pictures.shape[-1], pictures.shape[-2]])
    centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2 * size, (boxes[..., 2:] - boxes[..., :2])
    half = (extent * size).amax(-1).clamp_min(1.0) * (1 + margin) / 2
    x, y = (_resizing(centre[..., axis], half, side, pictures.shape[-1 - axis]) for axis in (0, 1))
    rows = torch.einsum("nchw,nsyh->nscyw", pictures, y)
    return torch.einsum("nscyw,nsxw->nscyx", rows, x)


def _resizing(centre: Tensor, half: Tensor, side: int, pixels: int) -> Tensor:
    """(n, s, side, pixels): the weights of the pixels of one axis in each pixel of the result."""
    steps = (2 * torch.arange(side, dtype=centre.dtype, device=centre.device) + 1) / side - 1
    at = centre.unsqueeze(-1) + half.unsqueeze(-1) * steps
    at = at.clamp(0.5, pixels - 0.5)
    width = (2 * half / side).clamp_min(1.0)[..., None, None]
    place = torch.arange(pixels, dtype=centre.dtype, device=centre.device) + 0.5
    weights = (1 - (at.unsqueeze(-1) - place).abs() / width).clamp_min(0)
    return weights / weights.sum(-1, keepdim=True)
