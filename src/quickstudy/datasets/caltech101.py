"""Caltech-101 for few-shot learning: 99 kinds of objects, the first 30 photographs of each.

There is no customary few-shot split. This one was sampled at random once: 64, 15 and 20 classes
(``splits/caltech101.json``), without the background clutter and the two classes of faces. The first
30 photographs by file name (``image_0001.jpg`` to ``image_0030.jpg``) exist in every class, so
classes are balanced. The content is verified by a SHA-256 over names and bytes, independent of
packing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from quickstudy.datasets.archives import Entry, read_stream
from quickstudy.datasets.cache import Splits, cached, data_root, writable_folder
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.images import decode
from quickstudy.datasets.limits import ArchiveError, bomb
from quickstudy.datasets.progress import track
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, fetch, find, published_split
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
ARCHIVE_SHA256 = card("caltech101").digest("caltech-101.zip")
CONTENT = card("caltech101").digest("photographs")  # see digest
SIZE = 84
FILES = tuple(f"image_{number:04d}.jpg" for number in range(1, 31))
SPLITS = ("train", "val", "test")
INNER = "101_ObjectCategories.tar.gz"  # a tar with the photographs inside the official zip

Photographs = dict[str, bytes]
"""``class/image_NNNN.jpg`` -> the bytes of the file."""


def load(
    root: str | Path | None = None, *, size: int | None = None, download: bool = True
) -> Dataset:
    """Caltech-101: (3, size, size) uint8, 30 rows per class; grey photographs become RGB.

    ``root``  holds ``caltech101/caltech-101.zip`` as published, or a part of it: the tar inside,
              the folder ``101_ObjectCategories``, or one zip per split
              (``caltech101_30_train.zip``, ...). Otherwise the archive is downloaded to it.
    ``size``  side in pixels, default 84; the middle square of each photograph.
    """
    folder, side = data_root(root), SIZE if size is None else size
    recipe = {"version": VERSION, "size": side}
    splits = cached(folder, "caltech101", recipe, lambda: build(folder, side, download))
    return Dataset(card("caltech101"), *in_order(splits))


def build(root: Path, size: int, download: bool) -> Splits:
    """Read, verify and decode all photographs."""
    sources = _sources(root, download)
    lists = published_split("caltech101")
    photographs = read(sources, {name for split in SPLITS for name in lists[split]})
    total = sum(len(lists[split]) for split in SPLITS) * len(FILES)
    if len(photographs) != total or digest(photographs) != CONTENT:
        raise ArchiveError(
            f"{sources[0]}: must hold the published photographs 1 to {len(FILES)} of "
            f"{total // len(FILES)} classes; found {len(photographs)} of {total}"
            f"{'' if len(photographs) != total else ', but some are altered'}. "
            "Delete it and download it again."
        )
    splits = {}
    for split in SPLITS:
        names = [f"{c}/{file}" for c in lists[split] for file in FILES]
        images = [
            decode(photographs[name], f"{sources[0]}: {name}", size=size, channels=3)
            for name in track(names, f"Decoding caltech101 {split}", len(names))
        ]
        splits[split] = LabelledRows(
            torch.from_numpy(np.stack(images)),
            torch.full((len(lists[split]),), len(FILES)),
            tuple(lists[split]),
        )
    return splits


def _sources(root: Path, download: bool) -> list[Path]:
    folders = [root / "caltech101", root / "caltech101" / "caltech-101", root / "caltech-101", root]
    parts = [find(folders, [f"caltech101_30_{split}.zip"]) for split in SPLITS]
    if all(parts):
        return [part for part in parts if part]
    source = find(folders, ["101_ObjectCategories", INNER, "caltech-101.zip"])
    if source is None and not download:
        raise FileNotFoundError(
            f"caltech101: caltech-101.zip is not in {folders[0]}. Allow the download, or "
            f"get it from {URL} and put it there."
        )
    if source is None:
        folder = writable_folder(root, "caltech101")
        source = fetch(URL, folder, f"sha256:{ARCHIVE_SHA256}")
    return [source]


def read(sources: list[Path], classes: set[str]) -> Photographs:
    """The photographs 1 to 30 of ``classes``."""

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        return path.name in FILES and path.parent.name in classes

    def all_entries() -> Iterator[Entry]:
        for source in sources:
            inner = 0
            for name, data in entries(source, lambda n: wanted(n) or n.endswith(INNER)):
                if name.endswith(INNER):
                    inner += 1
                    if inner > 1:
                        raise bomb(str(source), f"refused: it holds {INNER} more than once")
                    yield from read_stream(io.BytesIO(data), f"{source}: {name}", wanted)
                else:
                    yield name, data

    return {"/".join(PurePosixPath(name).parts[-2:]): data for name, data in all_entries()}


def digest(photographs: Photographs) -> str:
    """SHA-256 over the names and bytes of all photographs, independent of packing."""
    total = hashlib.sha256()
    for name, data in sorted(photographs.items()):
        total.update(f"{name}\0".encode())
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()
