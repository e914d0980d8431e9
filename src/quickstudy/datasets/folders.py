"""Data sets from folders with one folder of images per class.

For example ``folder/cat/1.jpg``, ``folder/dog/2.png``; or with given splits in ``folder/train``,
``folder/val`` and ``folder/test``, each with its class folders.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.images import SUFFIXES, ImageError, decode
from quickstudy.datasets.progress import track
from quickstudy.datasets.registry import card
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import split_classes

SIZE = 84  # as mini-ImageNet, and photographs in most few-shot papers
SPLITS = ("train", "val", "test")
MOST_LISTED = 5


def load(
    root: str | Path | None = None, *, size: int | None = None, strict: bool = False
) -> Dataset:
    """:func:`folder` for ``datasets.load("folder", root=path)``."""
    if root is None:
        raise ValueError("folder: give the folder of class folders as root.")
    return folder(root, size=size or SIZE, strict=strict)


def folder(
    path: str | Path,
    *,
    size: int = SIZE,
    channels: int = 3,
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2),
    seed: int = 0,
    strict: bool = False,
) -> Dataset:
    """The images below ``path`` as a data set; inputs (channels, size, size) uint8.

    Where ``path`` holds folders ``train``, ``val`` and ``test``, they are the splits. Otherwise
    each folder is a class, and whole classes are split at random by ``fractions`` and ``seed``.
    Raises as :func:`read_classes` does, and ValueError for fewer than 6 classes to split.
    """
    top = Path(path).expanduser()
    if all((top / split).is_dir() for split in SPLITS):
        parts = [read_classes(top / s, size, channels, strict=strict) for s in SPLITS]
        train, val, test = parts
    else:
        classes = read_classes(top, size, channels, strict=strict)
        train, val, test = split_classes(classes, fractions, seed)
    return Dataset(card("folder"), train, val, test)


def read_classes(
    path: str | Path,
    size: int = SIZE,
    channels: int = 3,
    *,
    resize: str = "bicubic",
    strict: bool = False,
) -> LabelledRows:
    """One class per folder in ``path``, sorted by name; inputs (channels, size, size) uint8.

    ``resize`` is "bicubic", or "area" for drawings.

    Images may be in folders inside the class folder. Hidden files are ignored. Every other file
    that is not a readable image is left out with a UserWarning that gives their number and the
    first names; with ``strict`` the first one raises ImageError.

    Raises FileNotFoundError, NotADirectoryError or PermissionError for the folder itself,
    ValueError without classes, and for a class without readable images.
    """
    top = Path(path).expanduser()
    files = {name: _files(top / name) for name in _class_names(top)}
    counts, bad = dict.fromkeys(files, 0), []
    pairs = [(name, file) for name, members in files.items() for file in members]
    rows = np.empty((len(pairs), channels, size, size), np.uint8)
    for name, file in track(pairs, f"Decoding {top.name}", len(pairs)):
        try:
            image = decode(file, str(file), size=size, channels=channels, resize=resize)
            rows[sum(counts.values())] = image
            counts[name] += 1
        except ImageError as error:
            if strict:
                raise
            bad.append(str(error))
    _refuse_empty(top, counts, bad)
    if bad:
        more = f" ... and {len(bad) - MOST_LISTED} more" if len(bad) > MOST_LISTED else ""
        listed = "; ".join(bad[:MOST_LISTED])
        warnings.warn(
            f"{top}: {len(bad)} of {len(pairs)} files were left out: {listed}{more}", stacklevel=2
        )
    good = rows[: sum(counts.values())]
    return LabelledRows(torch.from_numpy(good), torch.tensor(list(counts.values())), tuple(counts))


def _class_names(top: Path) -> list[str]:
    if not top.exists():
        raise FileNotFoundError(f"{top}: there is no such folder. Check the path.")
    if not top.is_dir():
        raise NotADirectoryError(
            f"{top}: must be a folder with one folder of images per class; it is a file."
        )
    names = [p.name for p in _listed(top) if p.is_dir() and not p.name.startswith((".", "__"))]
    if not names:
        raise ValueError(
            f"{top}: must hold one folder of images per class; found no folder. "
            f"Move the images of each class to {top / 'NAME_OF_CLASS'}."
        )
    return sorted(names)


def _files(folder: Path) -> list[Path]:
    """Every file below ``folder``, sorted by name; hidden ones are left out."""
    found: list[Path] = []
    for path in sorted(_listed(folder)):
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
            continue
        found += _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except PermissionError as error:
        raise PermissionError(
            f"{folder}: the folder cannot be opened. Give yourself the right to read it."
        ) from error


def _refuse_empty(top: Path, counts: dict[str, int], bad: list[str]) -> None:
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise ValueError(
            f"{top}: every class needs at least one readable image, but {empty[:3]} "
            f"({len(empty)} in all) have none. Remove the folder, or add images "
            f"({', '.join(SUFFIXES)})." + (f" First problem: {bad[0]}" if bad else "")
        )
