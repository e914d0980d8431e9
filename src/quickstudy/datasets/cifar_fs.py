"""CIFAR-FS: the 100 classes of CIFAR-100, 600 images each, as 64, 16 and 20 classes.

CIFAR-100 is published as Python pickles, which can run code when opened, and as binary records.
Only the records are read. The archive and both files of records are verified by SHA-256, so an
unpacked folder is as safe as the archive.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from quickstudy.datasets.cache import Splits, cached, data_root, writable_folder
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, fetch, find, published_split
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
ARCHIVE_SHA256 = card("cifar_fs").digest("cifar-100-binary.tar.gz")
RECORDS_SHA256 = {name: card("cifar_fs").digest(name) for name in ("train.bin", "test.bin")}
LABELS = "fine_label_names.txt"
SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # coarse label, fine label, then the red, green and blue planes


def load(root: str | Path | None = None, *, download: bool = True) -> Dataset:
    """CIFAR-FS: (3, 32, 32) uint8, classes named as in CIFAR-100 (Bertinetto et al., 2019).

    ``root``  holds ``cifar_fs/cifar-100-binary.tar.gz``, packed or unpacked; otherwise the archive
              is downloaded to it.
    """
    folder = data_root(root)
    recipe = {"version": VERSION}
    splits = cached(folder, "cifar_fs", recipe, lambda: build(folder, download))
    return Dataset(card("cifar_fs"), *in_order(splits))


def build(root: Path, download: bool) -> Splits:
    """Read and verify the records, and gather the classes of each split."""
    images, labels, names = read_records(_source(root, download))
    lists = published_split("cifar_fs")
    number = {name: i for i, name in enumerate(names)}
    splits = {}
    for split in ("train", "val", "test"):
        rows = [np.flatnonzero(labels == number[name]) for name in lists[split]]
        splits[split] = LabelledRows(
            torch.from_numpy(images[np.concatenate(rows)]),
            torch.tensor([len(r) for r in rows]),
            tuple(lists[split]),
        )
    return splits


def _source(root: Path, download: bool) -> Path:
    folders = [root / "cifar_fs", root]
    source = find(folders, ["cifar-100-binary", "cifar-100-binary.tar.gz"])
    if source is not None:
        return source
    pickled = find(folders, ["cifar-100-python", "cifar-100-python.tar.gz"])
    remedy = f"Get the binary version from {URL} and put it in {folders[0]}."
    if pickled is not None and not download:
        raise ValueError(f"{pickled}: holds Python pickles, which can run code. {remedy}")
    if not download:
        raise FileNotFoundError(
            f"cifar_fs: cifar-100-binary.tar.gz is not in {folders[0]}. "
            f"Allow the download. Or: {remedy}"
        )
    return fetch(URL, writable_folder(root, "cifar_fs"), f"sha256:{ARCHIVE_SHA256}")


def read_records(source: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images (n, 3, 32, 32) uint8, labels (n,) and the names of the labels, all verified."""
    wanted = {*RECORDS_SHA256, LABELS}
    found = {
        PurePosixPath(name).name: data
        for name, data in entries(
            source, lambda name: PurePosixPath(name).name in wanted, Limits(file_bytes=2**28)
        )
    }
    missing = wanted - set(found)
    if missing:
        raise ArchiveError(
            f"{source}: must hold {', '.join(sorted(wanted))}; {', '.join(sorted(missing))} is "
            "missing. Delete it and download it again."
        )
    for name, expected in RECORDS_SHA256.items():
        if hashlib.sha256(found[name]).hexdigest() != expected:
            raise ArchiveError(
                f"{source}: {name} has the wrong checksum; it is altered or incomplete. "
                "Delete it and download it again."
            )
    names = found[LABELS].decode("ascii", "replace").split()
    lists = published_split("cifar_fs")
    if sorted(names) != sorted(name for s in ("train", "val", "test") for name in lists[s]):
        raise ArchiveError(
            f"{source}: {LABELS} must hold the 100 names of CIFAR-100. Delete it and "
            "download it again."
        )
    records = np.concatenate(
        [np.frombuffer(found[name], np.uint8).reshape(-1, RECORD) for name in RECORDS_SHA256]
    )
    return records[:, 2:].reshape(-1, 3, SIDE, SIDE), records[:, 1], names
