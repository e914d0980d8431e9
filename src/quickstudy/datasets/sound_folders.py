"""Data sets from folders with one folder of sounds per class, as spectrograms.

For example ``folder/yes/1.wav``, ``folder/no/2.wav``; or with given splits in ``folder/train``,
``folder/val`` and ``folder/test``, each with its class folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.folders import given_folder, read_folders, refuse_splits, with_splits
from quickstudy.datasets.sounds import SUFFIXES
from quickstudy.datasets.spectrograms import SIZE, SpectrogramFormat
from quickstudy.tasks.rows import LabelledRows


def load(
    root: str | Path | None = None,
    *,
    size: int | None = None,
    strict: bool = False,
    fractions: Sequence[float] | None = None,
    split_seed: int = 0,
    ways: int | None = None,
) -> Dataset:
    """The sounds below ``root`` as a data set; inputs (1, size, size) uint8.

    Where ``root`` holds folders ``train``, ``val`` and ``test``, they are the splits. Otherwise
    each folder is a class, and classes are split as those of a folder of images. Raises as
    :func:`read_sound_classes` does, and ValueError for a single class.
    """
    top, form = Path(given_folder(root)).expanduser(), _form(size)

    def read(part: Path) -> LabelledRows:
        return read_sound_classes(part, form, strict=strict)

    return with_splits("sounds", top, read, fractions, split_seed, ways)


def _form(size: int | None) -> SpectrogramFormat:
    return SpectrogramFormat(SIZE if size is None else size)


def load_classes(
    root: str | Path | None = None, *, size: int | None = None, strict: bool = False
) -> LabelledRows:
    """All classes of the folder ``root``, without a split; ValueError where it has its own."""
    top = Path(given_folder(root)).expanduser()
    refuse_splits(top)
    return read_sound_classes(top, _form(size), strict=strict)


def read_sound_classes(
    path: str | Path, form: SpectrogramFormat, *, strict: bool = False
) -> LabelledRows:
    """One class per folder in ``path``, as :func:`.read_classes` of images; spectrograms."""
    return read_folders(
        path,
        lambda file: form.read(file, str(file)),
        (1, form.size, form.size),
        "sounds",
        SUFFIXES,
        strict=strict,
    )
