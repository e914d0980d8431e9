"""Emoji: 1,570 small pictures with a meaning, each in the designs of four vendors.

A class is a character; its four rows are its pictures in Noto, Twemoji, Fluent 3D and OpenMoji, on
white. Tasks may thus have at most 4 rows of a class, such as 1 shot and 3 queries: who knows a
character in one design must find it in the others. The superclass of a class is its subcategory in
Unicode's list ("face-smiling").
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy.datasets.cache import Splits, cached, data_root
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import card
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
DESIGNS = ("noto", "twemoji", "fluent3d", "openmoji")
CLASSES = "classes.json.gz"


def load(root: str | Path | None = None) -> Dataset:
    """Emoji: (3, 32, 32) uint8, 4 rows a class, 1,004 / 252 / 314 classes.

    ``root``  holds ``emoji/`` with ``noto_32.npz``, ``twemoji_32.npz``, ``fluent3d_32.npz`` and
              ``openmoji_32.npz``, the pictures ``images`` (1570, 32, 32, 4) of each design, and
              ``classes.json.gz``, the names and the split.
    """
    folder = data_root(root)
    splits = cached(folder, "emoji", {"version": VERSION}, lambda: build(folder))
    superclass = {_name(c): str(c["subcategory"]) for c in _classes(folder)}
    return Dataset(
        card("emoji"),
        *in_order(
            {
                name: replace(part, superclasses=tuple(superclass[n] for n in part.names))
                for name, part in splits.items()
            }
        ),
    )


def transparent(
    root: str | Path | None = None, split: str = "train"
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The pictures of a split with their transparency, and the names of the classes.

    (classes, 4, 4, 32, 32) uint8: class, design in the order of :data:`DESIGNS`, and red, green,
    blue and opacity. ``root`` as for :func:`load`.
    """
    folder = data_root(root)
    chosen = [(i, _name(c)) for i, c in enumerate(_classes(folder)) if c["split"] == split]
    designs = [_stored(_verified(folder, f"{design}_32.npz")) for design in DESIGNS]
    rows = np.stack([design[[i for i, _ in chosen]] for design in designs], 1)
    return torch.from_numpy(rows.transpose(0, 1, 4, 2, 3).copy()), tuple(name for _, name in chosen)


def build(root: Path) -> Splits:
    """Read, verify and decode all pictures."""
    designs = [_pictures(_verified(root, f"{design}_32.npz")) for design in DESIGNS]
    classes = _classes(root)
    splits = {}
    for split in ("train", "val", "test"):
        places = [place for place, each in enumerate(classes) if each["split"] == split]
        rows = np.stack([design[places] for design in designs], 1).reshape(-1, 3, 32, 32)
        splits[split] = LabelledRows(
            torch.from_numpy(rows),
            torch.full((len(places),), len(DESIGNS)),
            tuple(_name(classes[place]) for place in places),
        )
    return splits


def _verified(root: Path, name: str) -> bytes:
    """The bytes of a file of known content."""
    path = root / "emoji" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"emoji: there is no {path}. Make it from the published pictures as "
            "docs/datasets.md describes, or choose the root that holds it."
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card("emoji").digest(name):
        raise ArchiveError(f"{path}: differs from the known file. Get it again.")
    return data


def _classes(root: Path) -> list[dict[str, Any]]:
    classes: list[dict[str, Any]] = json.loads(gzip.decompress(_verified(root, CLASSES)))["classes"]
    return classes


def _name(described: dict[str, Any]) -> str:
    return f"{described['char']} {described['name']}"


def _pictures(data: bytes) -> np.ndarray:
    """(n, 3, 32, 32) uint8: the pictures of one design, on white."""
    pixels = _stored(data).astype(np.uint32)
    alpha = pixels[..., 3:]
    on_white = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    pictures: np.ndarray = on_white.astype(np.uint8).transpose(0, 3, 1, 2)
    return pictures


def _stored(data: bytes) -> np.ndarray:
    """(n, 32, 32, 4) uint8: the pictures of one design, with their opacity."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        pixels: np.ndarray = stored["images"]
    return pixels
