"""White blood cells: photographs of single stained cells under a microscope, of four types.

Dataset 1 of the publication: 300 pictures of about 120x120 pixels, from Jiangxi Tecom Science
Corporation. The fifth type, the basophil, has one picture, which is left out. All classes are test
classes: the data are too few to train on, and unlike those of other data sets.

The content is verified by a SHA-256 over the pixels and labels, independent of format and packing.

Reference: Zheng, Wang, Wang and Liu (2018), Fast and robust segmentation of white blood cell images
by self-supervised learning.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import torch

from quickstudy.datasets.cache import Splits, cached, data_root
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.images import decode
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.mask_files import decode_mask, nearest
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, find
from quickstudy.tasks.masks import MaskedPictures
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
SIZE = 84
TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
"""Of the labels 1 to 5."""
PICTURES = 300
PICTURE = re.compile(r"(?:(\d{3})\.bmp|images/(\d{3})\.png)$")
"""The end of a picture's name: as published, or repacked beside its mask."""
MASK = re.compile(r"(?<!images/)(?<!\d)(\d{3})\.png$")
MASKED_SIZE = 128
REGIONS = ("background", "cytoplasm", "nucleus")
GREYS = (0, 128, 255)
"""Of the regions, in the published masks."""


def load(root: str | Path | None = None, *, size: int | None = None) -> Dataset:
    """White blood cells as test classes: (3, size, size) uint8; 22 to 176 rows a class.

    ``root``  holds ``wbc/`` with the folder "Dataset 1" and the table "Class Labels of Dataset
              1.csv" of the repository, or ``wbc_dataset1.zip`` of both, with PNG pictures in
              ``images/``.
    ``size``  side in pixels, default 84; the middle square of each picture.
    """
    folder, side = data_root(root), SIZE if size is None else size
    recipe = {"version": VERSION, "size": side}
    splits = cached(folder, "wbc", recipe, lambda: build(folder, side))
    none = splits["test"].without_classes()
    return Dataset(card("wbc"), none, none, splits["test"])


def load_masks(root: str | Path | None = None, *, size: int = MASKED_SIZE) -> MaskedPictures:
    """All 300 pictures with the regions of their pixels: background, cytoplasm and nucleus.

    ``root``  as for :func:`load`; with the masks, the PNG pictures beside those of the cells.
    ``size``  side in pixels; the whole picture and mask, of 88 to 120 pixels, are stretched to it.

    Raises FileNotFoundError without masks, ArchiveError for altered ones.
    """
    folder = data_root(root)
    source = _source(folder)
    pictures, labels, masks = _read(source)
    _verify(source, pictures, labels)
    if sorted(masks) != sorted(pictures):
        raise FileNotFoundError(
            f"wbc: there must be a mask for each of the {len(pictures)} pictures in {source}; "
            f"found {len(masks)}. Get Dataset 1 from {card('wbc').url} as it is."
        )
    decoded = {number: _mask(masks[number], f"{source}: mask {number}") for number in masks}
    if _digest_of_masks(decoded) != card("wbc").digest("masks"):
        raise ArchiveError(
            f"{source}: the masks differ from the published ones. Get it again from "
            f"{card('wbc').url}."
        )
    numbers = sorted(pictures)
    rows = [
        decode(pictures[n], f"{source}: {n}", size=size, channels=3, whole=True) for n in numbers
    ]
    found = [nearest(decoded[n], size) for n in numbers]
    return MaskedPictures(
        torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(found)).long(), REGIONS
    )


def _mask(data: bytes, name: str) -> np.ndarray:
    """(height, width) ids of :data:`REGIONS`."""
    grey = decode_mask(data, name)
    if not set(np.unique(grey)) <= set(GREYS):
        raise ArchiveError(f"{name}: must have the greys {GREYS}. Get it again.")
    return np.searchsorted(GREYS, grey)


def _digest_of_masks(masks: dict[str, np.ndarray]) -> str:
    """SHA-256 over the size and ids of each mask."""
    total = hashlib.sha256()
    for number in sorted(masks):
        total.update(f"{number} {masks[number].shape} ".encode())
        total.update(masks[number].astype(np.uint8).tobytes())
    return total.hexdigest()


def build(root: Path, size: int) -> Splits:
    """Read, verify and decode all pictures of the first four types."""
    source = _source(root)
    pictures, labels, _ = _read(source)
    _verify(source, pictures, labels)
    rows = [
        decode(pictures[number], f"{source}: {number}", size=size, channels=3)
        for k in range(1, len(TYPES))
        for number in sorted(pictures)
        if labels[number] == k
    ]
    counts = [sum(label == k for label in labels.values()) for k in range(1, len(TYPES))]
    inputs = torch.from_numpy(np.stack(rows))
    return {"test": LabelledRows(inputs, torch.tensor(counts), TYPES[:-1])}


def _source(root: Path) -> Path:
    return find([root / "wbc", root], ["wbc_dataset1.zip"]) or root / "wbc"


def _verify(source: Path, pictures: dict[str, bytes], labels: dict[str, int]) -> None:
    """FileNotFoundError without pictures, ArchiveError for others than the published ones."""
    if not pictures:
        raise FileNotFoundError(
            f"wbc: there are no pictures in {source}. Get Dataset 1 and its class labels from "
            f"{card('wbc').url} and put them there."
        )
    if len(pictures) != PICTURES or sorted(labels) != sorted(pictures):
        raise ArchiveError(
            f"{source}: must hold {PICTURES} pictures and their labels; found {len(pictures)} "
            f"pictures and {len(labels)} labels. Get it again from {card('wbc').url}."
        )
    if digest(pictures, labels) != card("wbc").digest("pixels and labels"):
        raise ArchiveError(
            f"{source}: the pictures or labels differ from the published ones. Get it again from "
            f"{card('wbc').url}."
        )


def _read(source: Path) -> tuple[dict[str, bytes], dict[str, int], dict[str, bytes]]:
    """The file of each picture, its label and the file of its mask, by its number of 3 digits."""
    pictures: dict[str, bytes] = {}
    masks: dict[str, bytes] = {}
    labels: dict[str, int] = {}

    def wanted(name: str) -> bool:
        return name.endswith(".csv") or bool(PICTURE.search(name) or MASK.search(name))

    for name, data in entries(source, wanted, Limits(file_bytes=2**20)):
        if match := PICTURE.search(name):
            pictures[match[1] or match[2]] = data
        elif match := MASK.search(name):
            masks[match[1]] = data
        elif "2" not in Path(name).name:  # the table of Dataset 2 may lie beside it
            found = re.findall(r"^(\d+),([1-5])\s*$", data.decode("ascii", "replace"), re.MULTILINE)
            labels |= {f"{int(number):03d}": int(label) for number, label in found}
    return pictures, labels, masks


def digest(pictures: dict[str, bytes], labels: dict[str, int]) -> str:
    """SHA-256 over the size and pixels of each picture, and its label."""
    from PIL import Image

    total = hashlib.sha256()
    for number in sorted(pictures):
        decode(pictures[number], number, size=8, channels=3)  # refuses what is no usable picture
        with Image.open(io.BytesIO(pictures[number]), formats=("PNG", "BMP")) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        total.update(f"{number} {pixels.shape} {labels[number]} ".encode())
        total.update(pixels.tobytes())
    return total.hexdigest()
