"""Emoji pasted over photographs, with the mask of each: where is this one, in another design?

Made from two data sets: emoji in four designs, pasted by their transparency over photographs of
Caltech-101. Each picture shows two emoji of different classes. Classes of emoji are split, and so
are the classes of the photographs. All is drawn once, from a seed; no file is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy import datasets
from quickstudy.datasets.emoji import DESIGNS, transparent
from quickstudy.datasets.progress import track

SIZE = 128
SIDES = (28, 56)
"""Least and greatest side of a pasted emoji, for pictures of :data:`SIZE` pixels."""
PICTURES = {"train": 3500, "val": 700, "test": 1900}
"""About 7 of each training class, 6 of each validation class and 12 of each test class."""
TOGETHER = 2
_TRIES = 20


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class PastedEmoji:
    """Pictures with two emoji each, and where each is.

    ``pictures``  (n, 3, size, size) uint8.
    ``places``    (n, size, size) uint8: 0 for the photograph, 1 and 2 for the emoji.
    ``objects``   (2 n, 4): picture, number in it, class and design of every emoji.
    ``names``     of the classes.
    """

    pictures: Tensor
    places: Tensor
    objects: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def __repr__(self) -> str:
        shape = tuple(self.pictures.shape[1:])
        return f"PastedEmoji({len(self)} of {shape}, {len(self.names)} classes)"


def load(
    root: str | Path | None = None,
    split: str = "train",
    *,
    pictures: int | None = None,
    size: int = SIZE,
    seed: int = 0,
) -> PastedEmoji:
    """The pictures of one split, "train", "val" or "test".

    ``root``      of the data sets ``emoji`` and ``caltech101``.
    ``pictures``  how many; by default :data:`PICTURES` of the split.
    ``size``      side in pixels, 64 or more; emoji have 28 to 56 pixels in pictures of 128.
    ``seed``      of everything that is drawn.

    Raises ValueError for another split or size, and as the two data sets do.
    """
    if split not in PICTURES or size < 64:
        raise ValueError(
            f"emoji_masks: split must be one of {', '.join(PICTURES)}, and size 64 or more; found "
            f"{split!r} and {size}."
        )
    n = PICTURES[split] if pictures is None else pictures
    photographs = datasets.load("caltech101", root, size=size, download=False).splits[split].inputs
    emoji, names = transparent(root, split)
    generator = torch.Generator().manual_seed(1_000_003 * seed + list(PICTURES).index(split))
    drawn = _classes_and_designs(n, len(names), generator)
    made, places = [], []
    for pair in track(drawn, f"Pasting emoji, {split}", n):
        photograph = photographs[int(torch.randint(len(photographs), (), generator=generator))]
        picture, place = paste(photograph, [emoji[c, d] for c, d in pair.tolist()], generator)
        made.append(picture)
        places.append(place)
    numbers = torch.arange(TOGETHER * n)
    where = torch.stack([numbers // TOGETHER, numbers % TOGETHER + 1], 1)
    objects = torch.cat([where, drawn.flatten(0, 1)], 1)
    return PastedEmoji(torch.stack(made), torch.stack(places), objects, names)


def _classes_and_designs(n: int, classes: int, generator: torch.Generator) -> Tensor:
    """(n, 2, 2): class and design of each emoji; all come equally often, up to one."""
    number = torch.arange(TOGETHER * n)
    turn = number // classes
    start = torch.randint(len(DESIGNS), (classes,), generator=generator)
    both = torch.stack([number % classes, (start[number % classes] + turn) % len(DESIGNS)], 1)
    order = torch.randperm(len(both), generator=generator)
    pairs: Tensor = both[order].unflatten(0, (n, TOGETHER))
    for k in range(n):  # two of one class: exchange one with the next picture
        if pairs[k, 0, 0] == pairs[k, 1, 0]:
            other = (k + 1) % n
            pairs[k, 1], pairs[other, 1] = pairs[other, 1].clone(), pairs[k, 1].clone()
    return pairs


def paste(
    photograph: Tensor, emoji: list[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``emoji`` (4, h, w) with transparency over a photograph (3, size, size) uint8.

    Sides and places are drawn, places so that emoji do not overlap where that is possible in
    twenty tries. Returns the picture, and for each pixel the number of the emoji that covers at
    least half of it, from 1, or 0.
    """
    size = photograph.shape[-1]
    least, most = (side * size // SIZE for side in SIDES)
    picture, places = photograph / 255, photograph.new_zeros(size, size)
    taken: list[tuple[int, int, int]] = []
    for number, each in enumerate(emoji, 1):
        side = int(torch.randint(least, most + 1, (), generator=generator))
        for _ in range(_TRIES):
            top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
            if not any(_overlap((top, left, side), other) for other in taken):
                break
        taken.append((top, left, side))
        alpha = each[3:] / 255
        # Colours count by their opacity, or those of transparent pixels would show at the edges.
        colours = torch.cat([each[:3] / 255 * alpha, alpha])
        resized = F.interpolate(colours[None], (side, side), mode="bilinear", antialias=True)[0]
        opacity = resized[3:]
        area = (slice(top, top + side), slice(left, left + side))
        picture[:, *area] = picture[:, *area] * (1 - opacity) + resized[:3]
        places[area] = torch.where(opacity[0] >= 0.5, number, places[area])
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8), places


def _overlap(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    return all(a[k] < b[k] + b[2] and b[k] < a[k] + a[2] for k in (0, 1))
