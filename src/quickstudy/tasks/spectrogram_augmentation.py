"""Random changes of spectrograms, which are images (n, channels, bands, frames) in [0, 1].

They are augmentations as those of :mod:`quickstudy.tasks.augmentation`: functions
(images, generator) -> images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.tasks.image_rows import image_sides
from quickstudy.tasks.stacks import tensor_to_device


@dataclass(frozen=True)
class Shifts:
    """Spectrograms moved along time and frequency; what comes in from outside is silence.

    A word that begins earlier or later is the same word, and one in a higher voice is nearly its
    spectrogram moved up on the mel scale.

    ``time``   greatest shift, as a share of the frames.
    ``bands``  likewise of the bands.
    Whole frames and bands in either direction, all equally likely.
    """

    time: float = 0.1
    bands: float = 0.05

    def __post_init__(self) -> None:
        _check_shares("shifts", time=self.time, bands=self.bands)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images shifted by numbers of their own."""
        bands, frames = image_sides(images, "shifts")
        down, right = _whole(self.bands, bands), _whole(self.time, frames)
        padded = F.pad(images, (right, right, down, down))
        windows = padded.unfold(2, bands, 1).unfold(3, frames, 1)  # a view
        y = torch.randint(2 * down + 1, (len(images),), generator=generator)
        x = torch.randint(2 * right + 1, (len(images),), generator=generator)
        y, x = (tensor_to_device(each, images.device) for each in (y, x))
        return windows[torch.arange(len(images), device=images.device), :, y, x]


@dataclass(frozen=True)
class Masks:
    """A stretch of time and a range of frequencies erased, as by SpecAugment.

    Each width is uniform from 0 to the greatest one, and then its place is uniform. What is erased
    becomes the mean of the image.

    ``time``   greatest width of the stretch, as a share of the frames.
    ``bands``  likewise of the bands.
    ``count``  number of masks of each kind.

    Reference: Park et al. (2019), SpecAugment, section 2. Differs from the paper in having no
    time warping.
    """

    time: float = 0.2
    bands: float = 0.2
    count: int = 1

    def __post_init__(self) -> None:
        _check_shares("masks", time=self.time, bands=self.bands)
        if self.count < 1:
            raise ValueError(f"masks: count must be at least 1; found {shown(self.count)}.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images, each erased at places of its own."""
        bands, frames = image_sides(images, "masks")
        mean = images.mean((1, 2, 3), keepdim=True)
        for _ in range(self.count):
            rows = _erased(len(images), bands, self.bands, generator)[:, None, :, None]
            columns = _erased(len(images), frames, self.time, generator)[:, None, None, :]
            images = images.where(~tensor_to_device(rows | columns, images.device), mean)
        return images


def _erased(n: int, length: int, share: float, generator: torch.Generator) -> Tensor:
    """(n, length): a range of random width and place in each row."""
    width = torch.randint(_whole(share, length) + 1, (n, 1), generator=generator)
    start = (torch.rand(n, 1, generator=generator) * (length - width + 1)).floor()
    places = torch.arange(length)
    return (places >= start) & (places < start + width)


def _whole(share: float, length: int) -> int:
    return round(share * length)


def _check_shares(what: str, **shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{what}: {name} must be from 0 to 1; found {shown(value)}.")
