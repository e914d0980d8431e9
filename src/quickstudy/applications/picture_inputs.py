"""The user's picture files as inputs of a learner, and names for what is written about them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.hidden import is_hidden
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.words import count
from quickstudy.datasets.images import (
    EXIF_ON_ITS_SIDE,
    EXIF_ORIENTATION,
    SUFFIXES,
    ImageError,
    decode,
    opened_safely,
)

MOST_PIXELS = 2**24
"""Of a picture for which masks and overlays are written."""


def refuse_out_of_range(who: str, name: str, value: int, least: int, most: int) -> None:
    """ValueError for an option that no run can have, before pictures are read."""
    if not least <= value <= most:
        raise ValueError(
            f"{who}: {name} must be {least} to {most:,}; found {value}. Correct it with --set "
            f"{name}=NUMBER."
        )


def read_pictures(paths: Sequence[Path], size: int, strict: bool) -> tuple[Tensor, list[str]]:
    """(n, 3, size, size) in [0, 1], whole pictures stretched to ``size``, and their paths.

    Files that cannot be read are left out or raise an error, as by :func:`picture_files`.
    """

    def read(file: Path) -> np.ndarray:
        pixels = decode(file, str(file), size=size, channels=3, whole=True)
        _refuse_too_large(str(file))
        return pixels

    rows, names = picture_files(paths, read, strict)
    return torch.from_numpy(np.stack(rows)) / 255, names


def picture_files(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], strict: bool
) -> tuple[list[np.ndarray], list[str]]:
    """What ``read`` gives for each picture among ``paths``, and their paths.

    For a folder, all pictures in it but hidden ones. A file that is no readable picture is left out
    with a warning; with ``strict`` it raises ImageError.

    Raises ValueError where no picture can be read.
    """
    rows, names, unreadable = [], [], 0
    for file in _files(paths):
        try:
            rows.append(read(file))
            names.append(str(file))
        except ImageError as error:
            if strict:
                raise
            unreadable += 1
            warnings.warn(f"left out: {error}", SkippedInput, stacklevel=3)
    if not rows:
        raise ValueError(
            f"predict: none of {count(unreadable, 'file')} is a readable picture. Give picture "
            f"files, or a folder of them ({', '.join(SUFFIXES)})."
        )
    return rows, names


def size_of_file(name: str) -> tuple[int, int]:
    """Height and width of a picture file, upright."""
    with opened_safely(Path(name), name) as opened:
        width, height = opened.size
        on_its_side = opened.getexif().get(EXIF_ORIENTATION, 1) in EXIF_ON_ITS_SIDE
    return (width, height) if on_its_side else (height, width)


def unused_names(names: Sequence[str]) -> list[str]:
    """A name for the files about each picture: that of the picture, numbered where it comes again.

    >>> unused_names(["a/cell.png", "b/cell.jpg", "b/tissue.png"])
    ['cell', 'cell-2', 'tissue']
    """
    found: list[str] = []
    for name in names:
        stem = Path(name).stem
        free, number = stem, 1
        while free in found:
            number += 1
            free = f"{stem}-{number}"
        found.append(free)
    return found


def _refuse_too_large(name: str) -> None:
    height, width = size_of_file(name)
    if height * width > MOST_PIXELS:
        raise ImageError(
            f"{name}: masks are written for pictures of up to {MOST_PIXELS:,} pixels; found "
            f"{width} x {height}. Make the picture smaller."
        )


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            found += [p for p in inside if not is_hidden(p.relative_to(path))]
        else:
            found.append(path)
    if not found:
        raise ValueError(
            f"predict: there are no pictures in {', '.join(map(str, paths))}. Give other files."
        )
    return found
