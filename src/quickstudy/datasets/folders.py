"""Data sets from folders with one folder of images per class.

For example ``folder/cat/1.jpg``, ``folder/dog/2.png``; or with given splits in ``folder/train``,
``folder/val`` and ``folder/test``, each with its class folders.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from quickstudy.base.names import warn_of_alike
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.words import count
from quickstudy.datasets.dataset import Dataset, in_order, split_dataset
from quickstudy.datasets.images import SUFFIXES, ImageError, decode
from quickstudy.datasets.progress import track
from quickstudy.datasets.registry import card
from quickstudy.datasets.sounds import SoundError
from quickstudy.tasks.rows import LabelledRows

SIZE = 84  # as mini-ImageNet, and photographs in most few-shot papers
SPLITS = ("train", "val", "test")
MOST_LISTED = 5


def load(
    root: str | Path | None = None,
    *,
    size: int | None = None,
    strict: bool = False,
    fractions: Sequence[float] | None = None,
    split_seed: int = 0,
    ways: int | None = None,
) -> Dataset:
    """:func:`folder` for ``datasets.load("folder", root=path)``."""
    return folder(
        given_folder(root), size=SIZE if size is None else size, fractions=fractions,
        seed=split_seed, ways=ways, strict=strict,
    )  # fmt: skip


def load_classes(
    root: str | Path | None = None, *, size: int | None = None, strict: bool = False
) -> LabelledRows:
    """All classes of the folder ``root``, without a split.

    Raises ValueError where it has folders ``train``, ``val`` and ``test``, besides what
    :func:`read_classes` raises.
    """
    top = Path(given_folder(root)).expanduser()
    refuse_splits(top)
    return read_classes(top, SIZE if size is None else size, strict=strict)


def refuse_splits(top: Path) -> None:
    """ValueError where the folder ``top`` has splits of its own, so that no other can be made."""
    if has_splits(top):
        raise ValueError(
            f"{top}: has its own splits, the folders {', '.join(SPLITS)}, so no other split can "
            "be made. Put all class folders side by side, or leave the options of the split out."
        )


def given_folder(root: str | Path | None) -> str | Path:
    """``root``; ValueError where none is given."""
    if root is None:
        raise ValueError(
            "folder: needs the folder of class folders. Give it as root (--root FOLDER)."
        )
    return root


def has_splits(top: Path) -> bool:
    """Whether ``top`` holds a folder for each of the :data:`SPLITS`."""
    return all((top / split).is_dir() for split in SPLITS)


def folder(
    path: str | Path,
    *,
    size: int = SIZE,
    channels: int = 3,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    ways: int | None = None,
    strict: bool = False,
) -> Dataset:
    """The images below ``path`` as a data set; inputs (channels, size, size) uint8.

    Where ``path`` holds folders ``train``, ``val`` and ``test``, they are the splits. Otherwise
    each folder is a class, and whole classes are split at random, as
    :func:`~quickstudy.datasets.dataset.split_dataset` does; for 2 to 5 classes, pictures of each.
    Raises as :func:`read_classes` does, and ValueError for a single class.
    """

    def read(part: Path) -> LabelledRows:
        return read_classes(part, size, channels, strict=strict)

    return with_splits("folder", Path(path).expanduser(), read, fractions, seed, ways)


def with_splits(
    name: str,
    top: Path,
    read: Callable[[Path], LabelledRows],
    fractions: Sequence[float] | None,
    seed: int,
    ways: int | None,
) -> Dataset:
    """The data set of the card ``name`` in ``top``: with the splits there, or with new ones.

    ``read``  gives the classes in a folder of class folders.
    """
    if has_splits(top):
        if fractions is not None:
            refuse_splits(top)
        return Dataset(card(name), *in_order({split: read(top / split) for split in SPLITS}))
    return split_dataset(card(name), read(top), fractions, seed, ways)


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

    def read(file: Path) -> np.ndarray:
        return decode(file, str(file), size=size, channels=channels, resize=resize)

    return read_folders(path, read, (channels, size, size), "images", SUFFIXES, strict=strict)


def read_folders(
    path: str | Path,
    read: Callable[[Path], np.ndarray],
    shape: tuple[int, ...],
    what: str,
    suffixes: Sequence[str],
    *,
    strict: bool = False,
) -> LabelledRows:
    """:func:`read_classes` of any files that ``read`` makes rows of, uint8 of this ``shape``.

    ``what``  such files are called in messages, and ``suffixes`` they usually have. A file of which
              ``read`` says by ImageError or SoundError that it is none is left out.
    """
    top = Path(path).expanduser()
    files = {name: _files(top / name) for name in _class_names(top, what)}
    warn_of_alike(str(top), files)
    counts, problems = dict.fromkeys(files, 0), []
    pairs = [(name, file) for name, members in files.items() for file in members]
    rows = np.empty((len(pairs), *shape), np.uint8)
    for name, file in track(pairs, f"Decoding {top.name}", len(pairs)):
        try:
            rows[sum(counts.values())] = read(file)
            counts[name] += 1
        except (ImageError, SoundError) as error:
            if strict:
                raise
            problems.append((name, str(error)))
    _refuse_empty(top, counts, problems, what, suffixes)
    bad = [problem for _, problem in problems]
    if bad:
        more = f" ... and {len(bad) - MOST_LISTED} more" if len(bad) > MOST_LISTED else ""
        listed = "; ".join(bad[:MOST_LISTED])
        warnings.warn(
            f"{top}: left out {len(bad)} of {count(len(pairs), 'file')}: {listed}{more}",
            SkippedInput,
            stacklevel=2,
        )
    good = rows[: sum(counts.values())]
    return LabelledRows(torch.from_numpy(good), torch.tensor(list(counts.values())), tuple(counts))


def _class_names(top: Path, what: str) -> list[str]:
    if not top.exists():
        raise FileNotFoundError(f"{top}: there is no such folder. Check the path.")
    if not top.is_dir():
        raise NotADirectoryError(
            f"{top}: must be a folder with one folder of {what} per class; it is a file."
        )
    names = [p.name for p in _listed(top) if p.is_dir() and not p.name.startswith((".", "__"))]
    if not names:
        raise ValueError(
            f"{top}: must hold one folder of {what} per class; found no folder. "
            f"Move the {what} of each class to {top / 'NAME_OF_CLASS'}."
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


def _refuse_empty(
    top: Path,
    counts: dict[str, int],
    problems: list[tuple[str, str]],
    what: str,
    suffixes: Sequence[str],
) -> None:
    empty = [name for name, count in counts.items() if not count]
    if empty:
        of_them = [problem for name, problem in problems if name in empty]
        raise ValueError(
            f"{top}: every class needs at least one readable {what[:-1]}, but {empty[:3]} "
            f"({len(empty)} in all) have none. Remove the folder, or add {what} "
            f"({', '.join(suffixes)})." + (f" First problem: {of_them[0]}" if of_them else "")
        )
