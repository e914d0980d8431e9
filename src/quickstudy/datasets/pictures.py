"""How the pictures of a data set were made and look, so that other pictures can be made alike.

A learner trained on light ink on a dark background cannot read dark ink on a light one, and a
learner of drawings says nothing about photographs. :class:`PictureFormat` keeps what matters of the
training pictures; :meth:`PictureFormat.apply` gives other pictures the same form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.door import to_unit
from quickstudy.datasets.images import FILTERS

BACKGROUNDS = ("dark", "light", "varied")
TYPICAL = ("colour", "shades", "contrast", "cover")
"""The measures by which pictures of another kind are noticed."""
MEASURED = 1000  # training pictures: enough for quantiles at 5%, and quick
BLANK = 0.1  # less contrast than this is noise of a camera or of JPEG
LARGEST_SIZE = 4096
RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Ranges of values of which it is known what is black and what is white."""


class Looks(NamedTuple):
    """Measures of n pictures, each (n,).

    ``background``  brightness of the border within the picture's own range: 0 the darkest, 1 the
                    lightest; its median.
    ``plain``       share of the border's pixels that are nearly as bright as ``background``.
    ``colour``      mean over the pixels of the largest minus the smallest channel.
    ``shades``      entropy in bits of the brightness in 16 steps: low for drawings, up to 4 for
                    photographs.
    ``contrast``    brightness of the lightest minus that of the darkest pixel.
    ``cover``       share of pixels that are not nearly as bright as the background.
    """

    background: Tensor
    plain: Tensor
    colour: Tensor
    shades: Tensor
    contrast: Tensor
    cover: Tensor


def looks(pictures: Tensor) -> Looks:
    """The measures of ``pictures`` (n, channels, side, side) with values in [0, 1]."""
    parts = map(_looks, pictures.split(500))  # intermediate results take much memory
    return Looks(*map(torch.cat, zip(*parts, strict=True)))


def _looks(pictures: Tensor) -> Looks:
    grey = brightness(pictures)
    flat = grey.flatten(1)
    low, high = flat.aminmax(dim=1)
    contrast = high - low
    scale = contrast.clamp_min(torch.finfo(flat.dtype).eps)[:, None]
    flat = (flat - low[:, None]) / scale
    side = grey.shape[-1]
    inner = torch.zeros(grey.shape[1:], dtype=torch.bool)
    width = max(1, side // 14)
    inner[width : side - width, width : side - width] = True
    border = flat[:, ~inner.flatten()]
    background = border.median(1).values
    shares = torch.stack([
        ((flat >= step / 16) & (flat < (step + 1) / 16 if step < 15 else flat <= 1)).float().mean(1)
        for step in range(16)
    ], 1)  # fmt: skip
    return Looks(
        background=background,
        plain=((border - background[:, None]).abs() < 0.2).float().mean(1),
        colour=(pictures.amax(1) - pictures.amin(1)).flatten(1).mean(1),
        shades=torch.special.entr(shares).sum(1) / math.log(2),
        contrast=contrast,
        cover=((flat - background[:, None]).abs() >= 0.2).float().mean(1),
    )


def brightness(pictures: Tensor) -> Tensor:
    """(n, 1 or 3, height, width) -> (n, height, width): luma of ITU-R BT.601, as Pillow's."""
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    red, green, blue = pictures.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@dataclass(frozen=True)
class PictureFormat:
    """How the pictures of a data set were made, and how they look.

    ``channels``, ``size``  1 (grey) or 3 (RGB); the side in pixels.
    ``resize``      the filter that reduced them: "bicubic" or "area".
    ``low``, ``high``       the values of black and white.
    ``background``  "dark" where light ink is drawn on it, "light" for dark ink; "varied" where
                    pictures have no such background, or have colours, which cannot be inverted.
    ``typical``     for each of :data:`TYPICAL`, the range (low, high) of 90% of the pictures.

    Raises ValueError for fields out of range.
    """

    channels: int
    size: int
    resize: str
    low: float
    high: float
    background: str
    typical: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        ends = [self.low, self.high, *(end for pair in self.typical.values() for end in pair)]
        valid = (
            self.channels in (1, 3) and 1 <= self.size <= LARGEST_SIZE and self.resize in FILTERS
            and self.background in BACKGROUNDS and set(self.typical) <= set(TYPICAL)
            and all(map(math.isfinite, ends)) and self.low < self.high
        )  # fmt: skip
        if not valid:
            raise ValueError(
                f"pictures: need 1 or 3 channels, a size of 1 to {LARGEST_SIZE}, a filter of "
                f"{', '.join(FILTERS)}, a background of {', '.join(BACKGROUNDS)} and finite "
                f"numbers; found {self}. Save the learner again."
            )

    @staticmethod
    def of(inputs: Any, resize: str) -> PictureFormat | None:
        """The format of ``inputs`` (n, channels, side, side), a tensor of uint8 or reals.

        None where they are not square pictures, or where it is unknown which of their values are
        black and white: other pictures cannot be made alike.
        """
        shape = inputs.shape[1:] if isinstance(inputs, Tensor) else ()
        if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
            return None
        pixels = inputs.dtype == torch.uint8
        ends = (0.0, 1.0) if pixels else tuple(float(end) for end in inputs.aminmax())
        known = next((r for r in RANGES if r[0] <= ends[0] and ends[1] <= r[1]), None)
        if known is None:
            return None
        low, high = known
        some = inputs[torch.linspace(0, len(inputs) - 1, min(MEASURED, len(inputs))).long()]
        found = looks(to_unit(some) if pixels else (some.float() - low) / (high - low))
        quantiles = torch.tensor([0.05, 0.95])
        typical = {
            name: tuple(round(end, 4) for end in getattr(found, name).quantile(quantiles).tolist())
            for name in TYPICAL
        }
        return PictureFormat(
            shape[0],
            shape[1],
            resize,
            low,
            high,
            _background(found),
            typical,
        )

    def to_json(self) -> dict[str, Any]:
        """The format as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> PictureFormat:
        """The format of which :meth:`to_json` gave ``values``; ValueError for any others."""
        try:
            fields: dict[str, Any] = {
                "channels": int(values["channels"]),
                "size": int(values["size"]),
                "resize": str(values["resize"]),
                "low": float(values["low"]),
                "high": float(values["high"]),
                "background": str(values["background"]),
                "typical": {
                    str(name): (float(low), float(high))
                    for name, (low, high) in values["typical"].items()
                },
            }
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"pictures: their description is incomplete or damaged ({error!r}). Save the "
                "learner again."
            ) from error
        return PictureFormat(**fields)

    def to_invert(self, pictures: Tensor, otherwise: bool | None = None) -> Tensor:
        """(n,): which ``pictures`` (n, 1 or 3, side, side) in [0, 1] have the opposite background.

        Where a picture does not tell, as with ink along its border, it is ``otherwise``; by
        default what most of those have that tell.
        """
        if self.background == "varied":
            return torch.zeros(len(pictures), dtype=torch.bool)
        found = looks(pictures)
        dark, light = _dark(found), _light(found)
        opposite = light if self.background == "dark" else dark
        if otherwise is None:
            otherwise = 2 * int(opposite.sum()) > int((dark | light).sum())
        return torch.where(dark | light, opposite, otherwise)

    def apply(self, pictures: Tensor, invert: Tensor) -> Tensor:
        """``pictures`` (n, 1 or 3, side, side) in [0, 1] with the channels and values of this."""
        turned = torch.where(invert[:, None, None, None], 1 - pictures, pictures)
        if self.channels == 1 and turned.shape[1] == 3:
            turned = brightness(turned).unsqueeze(1)
        return self.low + (self.high - self.low) * turned

    def differences(self, pictures: Tensor) -> str:
        """How most of the ``pictures`` differ from those of this format; "" where they do not.

        ``pictures``  (n, 3, side, side) in [0, 1]: in colour, also where this format is grey.

        A picture differs where a measure is well outside of the range of 90% of the pictures of
        this format. Most must differ: of the same kind, some are expected to.
        """
        if not self.typical:
            return ""
        found, outside = looks(pictures), {}
        for name, (low, high) in self.typical.items():
            least, most = _with_tolerance(name, low, high)
            values = getattr(found, name)
            outside[name] = (values < least) | (values > most)
        if torch.stack(list(outside.values())).any(0).float().mean() <= 0.5:
            return ""
        shares = {name: float(each.float().mean()) for name, each in outside.items()}
        return "; ".join(
            f"{MEANINGS[name]} {float(getattr(found, name).median()):.2g}, "
            f"in training {self.typical[name][0]:.2g} to {self.typical[name][1]:.2g}"
            for name, share in shares.items()
            if share >= max(shares.values()) / 2
        )


MEANINGS = {
    "colour": "colour, 0 for grey:",
    "shades": "bits of shades, of which drawings have few:",
    "contrast": "contrast:",
    "cover": "share that is not background:",
}
"""The measures in words, for people."""


def _dark(found: Looks) -> Tensor:
    return (found.background <= 0.25) & _plain(found)


def _light(found: Looks) -> Tensor:
    return (found.background >= 0.75) & _plain(found)


def _plain(found: Looks) -> Tensor:
    return (found.plain >= 0.6) & (found.contrast >= BLANK)


def _background(found: Looks) -> str:
    """The background of nearly all pictures, where they are grey and hardly any has the other."""
    if found.colour.quantile(0.95) > 0.05:
        return "varied"
    dark, light = float(_dark(found).float().mean()), float(_light(found).float().mean())
    if dark >= 0.95 and light <= 0.01:
        return "dark"
    return "light" if light >= 0.95 and dark <= 0.01 else "varied"


def _with_tolerance(name: str, low: float, high: float) -> tuple[float, float]:
    """The range of a measure, wider by what pictures of the same kind from elsewhere may differ."""
    if name == "cover":  # thinner and thicker pens
        return low / 1.5, high * 1.5
    tolerance = {"colour": 0.1, "shades": 0.25, "contrast": 0.1}[name]
    return low - tolerance, high + tolerance
