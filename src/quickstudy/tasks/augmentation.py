"""Data augmentation: random changes of images that leave their classes as they are.

Each augmentation is a function (images, generator) -> images. Images are (n, channels, height,
width) in [0, 1]; all n rows are changed at once, each by random numbers of its own, which come from
the generator alone: the same generator state gives the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.base.augmentations import augmentation_names
from quickstudy.base.shown import shown
from quickstudy.base.trees import dtype_and_shape
from quickstudy.tasks.image_rows import image_sides, per_image
from quickstudy.tasks.spectrogram_augmentation import Masks, Shifts
from quickstudy.tasks.stacks import tensor_to_device

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""(images (n, ...), generator) -> images of the same shape and type."""


@dataclass(frozen=True)
class Crop:
    """A random part of the image's own size, after padding it with zeros (black) on all sides.

    ``padding``  pixels; by default a tenth of the shorter side, at least 4 but at most a quarter of
                 it: 8 of 84 and 4 of 32 pixels, as Lee, Maji, Ravichandran and Soatto (2019, code)
                 for miniImageNet and CIFAR-FS.
    """

    padding: int | None = None

    def __post_init__(self) -> None:
        if self.padding is not None and self.padding < 1:
            raise ValueError(
                f"crop: padding must be 1 or more pixels; found {shown(self.padding)}. "
                "Leave crop out for none."
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The image shifted by -padding to padding pixels in each direction, all equally likely."""
        height, width = image_sides(images, "crop")
        side = min(height, width)
        padding = min(max(4, side // 10), side // 4) if self.padding is None else self.padding
        shifts = torch.randint(2 * padding + 1, (2, len(images)), generator=generator)
        y, x = tensor_to_device(shifts, images.device)
        padded = F.pad(images, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (n, c, y, x, h, w)
        return windows[torch.arange(len(images), device=images.device), :, y, x]


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged, in each image with ``probability``."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"flip: probability must be above 0 and at most 1; found {shown(self.probability)}."
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images, some of them flipped."""
        image_sides(images, "flip")
        flipped = torch.rand(len(images), generator=generator) < self.probability
        return torch.where(per_image(flipped, images), images.flip(3), images)


@dataclass(frozen=True)
class Colour:
    """Random brightness, contrast and saturation.

    Each is a factor, uniform in [1 - strength, 1 + strength] for each image: ``brightness`` b,
    ``contrast`` c and ``saturation`` s. With g a pixel's grey, and m the mean grey of the image,

        image' = b (c (s image + (1 - s) g) + (1 - c) m), cut off at 0 and 1.

    The factors may be applied in any order: as long as nothing is cut off, the result is the same.
    Grey is 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601); of an image with one channel, the
    image, so that ``saturation`` changes nothing. The default strengths are those of Lee, Maji,
    Ravichandran and Soatto (2019, code), who cut off after each factor, in random order.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"colour: {name} must be from 0 to 1; found {shown(getattr(self, name))}."
                )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images in other colours; ValueError for pixels outside of [0, 1]."""
        image_sides(images, "colour")
        if images.shape[1] not in (1, 3):
            raise ValueError(
                f"colour: images must have 1 channel or 3; found {images.shape[1]}. Leave colour "
                "out."
            )
        low, high = (float(end) for end in images.aminmax())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"colour: pixels must be in [0, 1]; found {low:g} to {high:g}. Standardise images "
                "in the backbone instead of before, or leave colour out."
            )
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation])
        drawn = torch.rand(len(images), 3, generator=generator)
        b, c, s = (per_image(f, images) for f in (1 + strengths * (2 * drawn - 1)).unbind(1))
        grey = images
        if images.shape[1] == 3:
            red, green, blue = images.split(1, dim=1)
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
        mean = grey.mean((1, 2, 3), keepdim=True)
        changed = b * c * s * images + b * c * (1 - s) * grey + b * (1 - c) * mean
        return changed.clamp(0, 1)


@dataclass(frozen=True)
class Affine:
    """Turned, shifted and resized a little, for characters; what comes in from outside is black.

    ``degrees``  turned by an angle up to this, either way.
    ``shift``    up to this share of height and width, in each direction.
    ``scale``    a factor in [1 - scale, 1 + scale].
    All are uniform; pixels are interpolated linearly.
    """

    degrees: float = 10.0
    shift: float = 0.1
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("degrees", 180), ("shift", 1), ("scale", 0.9)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"affine: {name} must be from 0 to {most}; found {shown(getattr(self, name))}."
                )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images changed about their centre."""
        height, width = image_sides(images, "affine")
        turn, down, right, grow = 2 * torch.rand(4, len(images), generator=generator) - 1
        angle, size = turn * math.radians(self.degrees), 1 + grow * self.scale
        cos, sin = angle.cos() / size, angle.sin() / size
        # From where, in coordinates in [-1, 1], each pixel of the result is taken.
        x = torch.stack([cos, sin * height / width, -2 * self.shift * right], 1)
        y = torch.stack([-sin * width / height, cos, -2 * self.shift * down], 1)
        maps = tensor_to_device(torch.stack([x, y], 1).to(images.dtype), images.device)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class Chain:
    """Several augmentations, one after the other."""

    parts: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images changed by all parts."""
        for part in self.parts:
            images = part(images, generator)
        return images


_NAMED: dict[str, Callable[[], Augmentation]] = {
    "crop": Crop, "flip": Flip, "colour": Colour, "affine": Affine, "shifts": Shifts,
    "masks": Masks,
}  # fmt: skip


def augmentation(names: str) -> Augmentation:
    """The augmentations of a text such as "crop+flip+colour", with their default settings.

    Raises ValueError for unknown names.
    """
    parts = tuple(_NAMED[name]() for name in augmentation_names(names))
    return parts[0] if len(parts) == 1 else Chain(parts)


Augment = str | Augmentation | tuple[str | Augmentation | None, str | Augmentation | None]
"""What :func:`quickstudy.episodes` accepts: one for all rows, or a pair (support, query)."""

Pair = tuple[Augmentation | None, Augmentation | None]
"""Of the support rows and of the query rows; None leaves them as they are."""


def of_support_and_query(augment: Augment | None, rows: Any) -> Pair:
    """The augmentations that ``augment`` gives, each tried out on ``rows`` (n, ...) of the data.

    Raises ValueError for unknown names, for rows that are not one tensor, for what is no function
    of (images, generator), and where it does not keep the shape and type of what it is given.
    """
    pair = augment if isinstance(augment, tuple) else (augment, augment)
    if len(pair) != 2:
        raise ValueError(
            f"augment: must be one for all rows, or a pair (support, query); found {len(pair)}."
        )
    support, query = (augmentation(one) if isinstance(one, str) else one for one in pair)
    for one in {id(one): one for one in (support, query) if one is not None}.values():
        _try_out(one, rows)
    return support, query


def _try_out(augment: Any, rows: Any) -> None:
    if not callable(augment):
        raise ValueError(
            "augment: must be a function from (images, torch.Generator) to images, or names such "
            f"as 'crop+flip'; found {shown(augment)}."
        )
    if not isinstance(rows, Tensor):
        raise ValueError(
            "augment: rows must be one tensor, but they are a tree of several. Augment them in a "
            "task source of your own, which draws from these episodes."
        )
    given = dtype_and_shape(rows)
    found = augment(rows.clone(), torch.Generator().manual_seed(0))
    if dtype_and_shape(found) != given:
        raise ValueError(
            f"augment: must keep shape and type of the images; given {given}, it gave "
            f"{dtype_and_shape(found)}."
        )
