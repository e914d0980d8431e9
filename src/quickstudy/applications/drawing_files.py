"""Drawings in files: read as ink from 0 to 1, and written as dark ink on white."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.atomic import replace_atomically
from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets.images import SUFFIXES, ImageError, decode, opened_safely, overlaps
from quickstudy.tasks.rows import LabelledRows

HALF = 0.5


def ink_of(pixels: Tensor) -> Tensor:
    """``pixels`` (n, 1, side, side) uint8 with ink bright; ink covers less than half."""
    light = pixels.float().mean((1, 2, 3), keepdim=True) > 255 * HALF
    return torch.where(light, 255 - pixels, pixels)


def with_bright_ink(classes: LabelledRows) -> LabelledRows:
    """``classes`` with ink bright in every drawing."""
    return LabelledRows(
        ink_of(classes.inputs), classes.counts, classes.names, classes.superclasses
    )  # fmt: skip


def read_drawings(folder: Path, size: int, *, strict: bool = False) -> Tensor:
    """The drawings in a folder, (n, 1, size, size) uint8 with ink bright.

    A picture that cannot be read is left out with a warning; with ``strict`` it raises ImageError.
    Raises FileNotFoundError for no such folder, and ValueError for one without pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: must be a folder of a few drawings of one thing. Check the path."
        )
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"{folder}: must hold drawings of one thing; found no picture ({', '.join(SUFFIXES)}). "
            "Put a few there."
        )
    rows, problems = [], []
    for file in files:
        try:
            rows.append(decode(file, str(file), size=size, channels=1, resize="area"))
        except ImageError as error:
            if strict:
                raise
            problems.append(str(error))
    if not rows:
        raise ValueError(f"{folder}: none of its pictures can be read. First: {problems[0]}")
    for problem in problems:
        warnings.warn(f"left out: {problem}", SkippedInput, stacklevel=2)
    return ink_of(torch.from_numpy(np.stack(rows)))


def read_partial(file: Path, size: int) -> tuple[Tensor, Tensor]:
    """Ink (size, size) in [0, 1] of a picture, and which of it is known, (size, size) bool.

    Transparent parts are unknown; a pixel is known where at least half of its area is.

    Raises ImageError where the picture cannot be read, and ValueError where all of it is known, or
    nothing.
    """
    from PIL import ImageOps

    with opened_safely(file, str(file)) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened).convert("LA"), np.float64) / 255
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    grey, alpha = np.moveaxis(pixels[top : top + side, left : left + side], 2, 0)
    overlap = overlaps(side, size).astype(np.float64) / side
    share = overlap @ alpha @ overlap.T
    known = share >= HALF
    if known.all() or not known.any():
        found = "nothing of it is transparent" if known.all() else "all of it is transparent"
        raise ValueError(
            f"{file}: the parts to complete must be transparent, and the others not; found that "
            f"{found}. Erase those parts, and save it as PNG."
        )
    ink = (overlap @ (grey * alpha) @ overlap.T) / np.maximum(share, 1e-9)
    ink = 1 - ink if ink[known].mean() > HALF else ink
    return torch.from_numpy(ink).float(), torch.from_numpy(known)


def write_drawing(ink: Tensor, path: Path, enlarged: int = 8) -> None:
    """Write ``ink`` (side, side) in [0, 1] as a PNG of dark ink on white, pixels ``enlarged``."""
    from PIL import Image

    grey = (255 * (1 - ink.clamp(0, 1))).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(grey.repeat(enlarged, 0).repeat(enlarged, 1))
    replace_atomically(path, lambda temporary: picture.save(temporary, "PNG"))
