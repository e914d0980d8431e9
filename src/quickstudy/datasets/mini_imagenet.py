"""mini-ImageNet: 100 classes of ImageNet, 600 photographs each, as 64, 16 and 20 classes.

The terms of ImageNet forbid redistribution, so the user must provide the images. The split is that
of Ravi and Larochelle (2017). Two layouts are read, in a folder or in a zip or tar archive:

* ``images/n0153282900000005.jpg``: the file name begins with the synset, as in the published lists;
* ``n01532829/anything.jpg``: one folder per synset, at any depth.

Each class must hold exactly 600 images. There is no published checksum, so which 600 they are
cannot be verified. Copies stored as Python pickles are refused, because opening a pickle can run
code.
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from quickstudy.base.skipped import SkippedInput
from quickstudy.base.words import count
from quickstudy.datasets.cache import Decoded, cached_incomplete, data_root
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.images import SUFFIXES, ImageError, decode
from quickstudy.datasets.limits import Limits
from quickstudy.datasets.progress import track
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, find, published_split
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
SIZE = 84
PER_CLASS = 600
NAMES = ["images"] + [
    f"{stem}{suffix}"
    for stem in ("images", "mini-imagenet", "miniImageNet")
    for suffix in (".zip", ".tar", ".tar.gz", ".tgz")
]


def load(
    root: str | Path | None = None, *, size: int | None = None, strict: bool = False
) -> Dataset:
    """mini-ImageNet: (3, size, size) uint8, classes named by synset.

    ``root``    holds ``mini_imagenet/images``, or an archive of it (``images.zip``), in one of
                the layouts above.
    ``size``    side in pixels, default 84; the middle square of each photograph.
    ``strict``  raise an error for an unreadable image, instead of a warning at every load.
    """
    folder, side = data_root(root), SIZE if size is None else size
    recipe = {"version": VERSION, "size": side}
    splits, left_out = cached_incomplete(
        folder, "mini_imagenet", recipe, lambda: build(folder, side, strict), complete=strict
    )
    if left_out:
        warnings.warn(
            f"mini_imagenet: left out {count(len(left_out), 'image')}: {left_out[0]} Restore what "
            "is missing, and load with strict=True: that decodes all images again.",
            SkippedInput,
            stacklevel=3,  # the caller of datasets.load
        )
    return Dataset(card("mini_imagenet"), *in_order(splits))


def build(root: Path, size: int, strict: bool) -> Decoded:
    """Decode all 60,000 photographs."""
    source = _source(root)
    lists = published_split("mini_imagenet")
    synsets = [synset for split in ("train", "val", "test") for synset in lists[split]]
    rows = np.empty((len(synsets), PER_CLASS, 3, size, size), np.uint8)
    names, left_out = _decode(source, synsets, rows, strict)
    splits = {}
    for split in ("train", "val", "test"):
        indices = [synsets.index(synset) for synset in lists[split]]
        # members of archives may be in any order: rows of a class are sorted by name
        ordered = [rows[i, np.argsort(names[i], kind="stable")] for i in indices]
        splits[split] = LabelledRows(
            torch.from_numpy(np.concatenate(ordered)),
            torch.tensor([len(names[i]) for i in indices]),
            tuple(lists[split]),
        )
    return Decoded(splits, tuple(left_out))


def _source(root: Path) -> Path:
    folder = root / "mini_imagenet"
    source = find([folder], NAMES)
    if source is not None:
        return source
    if any(folder.rglob("n[0-9]*")):  # synset folders directly in the folder
        return folder
    pickled = next(folder.glob("*.pkl"), None)
    if pickled is not None:
        raise ValueError(
            f"{pickled}: a Python pickle can run code when it is opened, so it is not read. "
            f"Provide the images themselves, in {folder / 'images'}."
        )
    raise FileNotFoundError(
        f"mini_imagenet: no images in {folder}. ImageNet's terms forbid redistribution: "
        f"get them with an account at {card('mini_imagenet').url} and put them in "
        f"{folder / 'images'} (or images.zip), as n0153282900000005.jpg or "
        "n01532829/anything.jpg, 600 for each of the 100 classes."
    )


def synset_of(name: str, synsets: set[str]) -> str | None:
    """The class of an image by its path: the beginning of its name, or a folder; None without."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
        return None
    if path.name[:9] in synsets:
        return path.name[:9]
    return next((folder for folder in reversed(path.parts[:-1]) if folder in synsets), None)


def _decode(
    source: Path, synsets: list[str], rows: np.ndarray, strict: bool
) -> tuple[list[list[str]], list[str]]:
    """Fill ``rows`` (classes, 600, ...).

    Returns the file names of the rows of each class, and the error of each image left out.
    """
    place = {synset: i for i, synset in enumerate(synsets)}
    known = set(synsets)
    names: list[list[str]] = [[] for _ in synsets]
    counts, bad = dict.fromkeys(synsets, 0), []
    pictures = entries(
        source, lambda name: synset_of(name, known) is not None, Limits(file_bytes=2**26)
    )
    for name, data in track(pictures, "Decoding mini-ImageNet", PER_CLASS * len(synsets)):
        synset = synset_of(name, known) or ""
        counts[synset] += 1
        if counts[synset] > PER_CLASS:
            continue  # counted, and refused below
        index = place[synset]
        try:
            image = decode(data, f"{source}: {name}", size=rows.shape[-1], channels=3)
        except ImageError as error:
            if strict:
                raise
            bad.append(str(error))
            continue
        rows[index, len(names[index])] = image
        names[index].append(PurePosixPath(name).name)
    wrong = [f"{synset} {count}" for synset, count in counts.items() if count != PER_CLASS]
    if wrong:
        raise ValueError(
            f"{source}: each of the {len(synsets)} classes must hold {PER_CLASS} images; "
            f"{len(wrong)} do not: {', '.join(wrong[:3])}. Keep the 600 of each class in the "
            "published lists; ImageNet itself has about 1,300."
        )
    return names, bad
