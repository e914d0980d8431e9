"""Render characters of font faces as many randomly transformed images; used by :mod:`.glyphs`.

Every step gives the same bytes on every run and for any number of threads: sums are of integers, so
they are exact in any order, and all other operations are elementwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FACES = tuple(
    [f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
    + [f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
    + [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")]
    + [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")]
)
"""The faces that are rendered: four families in four styles each."""
UPRIGHT = (0, 4, 8, 12)
"""One face of each family, in which characters are compared."""

RASTER = (
    56  # side of a glyph's raster, twice that of an image, so that transforming loses no detail
)
INK = 38  # longer side of the ink in the raster: 19 of 28 pixels leave room for jitter
EM = 72  # size at which the font is rendered before it is scaled to INK
IMAGE = 28


class Glyphs(NamedTuple):
    """One raster per character and face, sorted by character.

    ``rasters``    (glyphs, 56, 56): uint8, white ink on black, the ink centred and scaled so that
                   its longer side is 38: size and position carry no information on the class.
    ``character``  (glyphs,): index of the character.
    ``face``       (glyphs,): index in :data:`FACES`.
    """

    rasters: Tensor
    character: Tensor
    face: Tensor


def font_folder() -> Path:
    """The folder of the fonts that ship with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def coverage() -> dict[int, list[int]]:
    """The indices of the faces that have each code point."""
    from matplotlib.ft2font import FT2Font

    faces_of: dict[int, list[int]] = {}
    for index, face in enumerate(FACES):
        for code in FT2Font(str(font_folder() / f"{face}.ttf")).get_charmap():
            faces_of.setdefault(code, []).append(index)
    return faces_of


def render(faces_of: Mapping[int, Sequence[int]]) -> Glyphs:
    """Render each code point in each of its faces; blank glyphs are left out."""
    from PIL import ImageFont

    fonts = [
        ImageFont.truetype(font_folder() / f"{face}.ttf", EM, layout_engine=ImageFont.Layout.BASIC)
        for face in FACES
    ]
    rasters, characters, rendered = [], [], []
    for character, (code, faces) in enumerate(faces_of.items()):
        for face in faces:
            raster = _raster(fonts[face], chr(code))
            if raster is not None:
                rasters.append(raster)
                characters.append(character)
                rendered.append(face)
    return Glyphs(
        torch.from_numpy(np.stack(rasters)), torch.tensor(characters), torch.tensor(rendered)
    )


def _raster(font: FreeTypeFont, character: str) -> np.ndarray | None:
    """One glyph, cropped to its ink, scaled and centred; None where it has no ink."""
    from PIL import Image

    mask = font.getmask(character, mode="L")
    if 0 in mask.size:
        return None
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    if box is None:
        return None
    sides = box[2] - box[0], box[3] - box[1]
    width, height = (max(1, round(INK * side / max(sides))) for side in sides)
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    canvas = Image.new("L", (RASTER, RASTER))
    canvas.paste(image, ((RASTER - width) // 2, (RASTER - height) // 2))
    return np.asarray(canvas)


def similarity(glyphs: Glyphs) -> Tensor:
    """(characters, characters): similarity of two characters, 0 to 1; -1 without a common face.

    For ink a, b of two glyphs at 28 x 28: 2 <a, b> / (<a, a> + <b, b>), averaged over the upright
    faces that have both. 64 levels of ink keep the sums below 2^24, where float32 is exact.
    """
    n = int(glyphs.character.max()) + 1
    total, shared = torch.zeros(n, n), torch.zeros(n, n)
    for face in UPRIGHT:
        in_face = glyphs.face == face
        ink, holds = torch.zeros(n, IMAGE * IMAGE), torch.zeros(n)
        halved = _halve(glyphs.rasters[in_face].to(torch.float32))
        ink[glyphs.character[in_face]] = halved.div(4).floor().flatten(1)
        holds[glyphs.character[in_face]] = 1
        products = ink @ ink.T
        energy = products.diagonal()
        total += 2 * products / (energy[:, None] + energy).clamp(min=1)
        shared += torch.outer(holds, holds)
    return torch.where(shared > 0, total / shared.clamp(min=1), -torch.ones(()))


class Jitter(NamedTuple):
    """Bounds of the random transforms; each is uniform between minus and plus its bound.

    The defaults were chosen for legible characters, and by the accuracy of a small network.
    """

    rotation: float = 0.26  # radians
    scale: float = 0.20  # of width and height, independently
    shear: float = 0.25
    shift: float = 0.12  # of half the image's side
    bend: float = 0.09  # per coefficient of the cubic warp, of half the image's side
    stroke: float = 0.8  # raster pixels by which outlines grow; they shrink by up to half of it


JITTER = Jitter()


def samples(
    rasters: Tensor,
    per_class: int,
    faces: Sequence[Tensor],
    generator: torch.Generator,
    jitter: Jitter = JITTER,
) -> Tensor:
    """(classes * per_class, 1, 28, 28) uint8: each class's faces in turn, randomly transformed.

    ``rasters``  (glyphs, 56, 56).
    ``faces``    for each class, the rows of ``rasters`` to use.
    """
    blocks = []
    for start in range(0, len(faces), 64):
        chosen = torch.cat(
            [
                rows[(torch.arange(per_class) + start + offset) % len(rows)]
                for offset, rows in enumerate(faces[start : start + 64])
            ]
        )
        ink = _thicken(rasters[chosen].unsqueeze(1), jitter.stroke, generator)
        blocks.append(_warp(ink, jitter, generator))
    return torch.cat(blocks)


def _uniform(n: int, terms: int, generator: torch.Generator) -> Tensor:
    """(terms, n, 1, 1) uniform in [-1, 1]."""
    return torch.rand(n, terms, generator=generator).mul(2).sub(1).T[..., None, None]


def _thicken(ink: Tensor, stroke: float, generator: torch.Generator) -> Tensor:
    """Move every outline outwards by up to ``stroke`` pixels, or inwards by up to half of it."""
    amount = _uniform(len(ink), 1, generator)[0].mul(0.75 * stroke).add(0.25 * stroke).unsqueeze(-1)
    grown, shrunk = ink, ink
    for axis in (-1, -2):  # the brightest and the darkest of 3 x 3; the border is always black
        before, after = grown.roll(1, axis), grown.roll(-1, axis)
        grown = torch.maximum(grown, torch.maximum(before, after))
        before, after = shrunk.roll(1, axis), shrunk.roll(-1, axis)
        shrunk = torch.minimum(shrunk, torch.minimum(before, after))
    ink = ink.to(torch.float32)
    return ink + amount.clamp(min=0) * (grown - ink) + amount.clamp(max=0) * (ink - shrunk)


def _warp(ink: Tensor, jitter: Jitter, generator: torch.Generator) -> Tensor:
    """Rotate, stretch, shear, shift and bend, and reduce 56 x 56 to 28 x 28."""
    n = len(ink)
    turn, wide, high, slant, right, down = _uniform(n, 6, generator)
    turn, slant = turn * jitter.rotation, slant * jitter.shear
    wide, high = 1 + wide * jitter.scale, 1 + high * jitter.scale
    # sine and cosine to 1e-5 for small angles, by operations that round equally on all machines
    sine, cosine = turn - turn * turn * turn / 6, 1 - turn * turn / 2

    axis = (torch.arange(IMAGE) + 0.5) / IMAGE * 2 - 1
    y, x = axis[:, None], axis[None, :]
    bent_x, bent_y = x + right * jitter.shift, y + down * jitter.shift
    for term in (x * x, x * y, y * y, x * x * x, x * x * y, x * y * y, y * y * y):
        push_x, push_y = _uniform(n, 2, generator)
        bent_x = bent_x + push_x * jitter.bend * term
        bent_y = bent_y + push_y * jitter.bend * term
    from_x = (cosine * bent_x + (slant - sine) * bent_y) * wide
    from_y = (sine * bent_x + cosine * bent_y) * high
    grid = torch.stack([from_x, from_y], dim=-1)
    blurred = ink + ink.roll(1, -1)  # 2 x 2 means: sampling at half the resolution cannot alias
    blurred = (blurred + blurred.roll(1, -2)) / 4
    # the mean of pixels i - 1 and i lies half a pixel before i, that is 1 / RASTER of [-1, 1]
    sampled = grid_sample(blurred, grid + 1 / RASTER, align_corners=False)
    return sampled.round().clamp(0, 255).to(torch.uint8)


def _halve(images: Tensor) -> Tensor:
    """(n, 2h, 2w) -> (n, h, w): means of 2 x 2."""
    rows = images[:, 0::2] + images[:, 1::2]
    return (rows[..., 0::2] + rows[..., 1::2]) / 4
