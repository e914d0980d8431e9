"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

The drawings are 105 x 105 pixels of one bit. Here ink is white on black, and each pixel
of a reduced image is the share of ink in its area (box filter), as uint8.

The two official archives are verified by MD5 when downloaded (no SHA-256 is published). In every
case the content is verified: a SHA-256 over the names and decoded pixels of all drawings, so a
re-packed archive or an unpacked folder is accepted too.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from quickstudy.base.shown import shown
from quickstudy.datasets.cache import Recipe, Splits, cached, data_root, writable_folder
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.images import overlaps
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.progress import track
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, fetch, find, published_split
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the decoded bytes
SIDE = 105
DRAWERS = 20
LAKE_VALIDATION_ALPHABETS = 5


@dataclass(frozen=True)
class Part:
    """One of the two archives: its address, and its content."""

    name: str
    url: str
    md5: str
    characters: int
    content: str  # see digest


PARTS = (
    Part(
        name="images_background",
        url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
        "images_background.zip",
        md5=card("omniglot").digest("images_background.zip"),
        characters=964,
        content=card("omniglot").digest("drawings of images_background"),
    ),
    Part(
        name="images_evaluation",
        url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
        "images_evaluation.zip",
        md5=card("omniglot").digest("images_evaluation.zip"),
        characters=659,
        content=card("omniglot").digest("drawings of images_evaluation"),
    ),
)

Drawings = dict[str, np.ndarray]
"""``alphabet/characterNN`` -> (20, 105, 105) bool, True where there is ink."""


def load(
    root: str | Path | None = None,
    *,
    split: str | None = None,
    size: int | None = None,
    rotations: bool = False,
    download: bool = True,
) -> Dataset:
    """Omniglot: (1, size, size) uint8, 20 drawings per class, classes ``alphabet/characterNN``.

    The superclass of a class is its alphabet.

    ``root``       holds ``omniglot/images_background`` and ``omniglot/images_evaluation``, as
                   ``.zip`` or unpacked; otherwise they are downloaded to it.
    ``split``      ``vinyals`` (default): 1028, 172 and 423 characters. ``lake``: train and
                   validation from the background alphabets, test the evaluation alphabets;
                   validation is the five background alphabets whose names have the smallest
                   SHA-256.
    ``size``       side in pixels, default 28.
    ``rotations``  add every class rotated by 90, 180 and 270 degrees as three further classes:
                   4112, 688 and 1692 in all (Vinyals et al., 2016; Snell et al., 2017).
    """
    chosen, side = split or "vinyals", check_size("omniglot", size)
    if chosen not in card("omniglot").splits:
        raise ValueError(f"omniglot: there is no split {shown(chosen)}. Choose vinyals or lake.")
    folder = data_root(root)
    recipe: Recipe = {"version": VERSION, "split": chosen, "size": side}
    stored = cached(folder, "omniglot", recipe, lambda: build(folder, chosen, side, download))
    splits = {
        name: replace(part, superclasses=tuple(n.split("/")[0] for n in part.names))
        for name, part in stored.items()
    }
    if rotations:
        splits = {name: part.with_rotations() for name, part in splits.items()}
    return Dataset(card("omniglot"), *in_order(splits))


def check_size(who: str, size: int | None) -> int:
    """``size``, 28 by default; ValueError for one that drawings cannot be reduced to."""
    side = 28 if size is None else size
    if not 1 <= side <= SIDE:
        raise ValueError(
            f"{who}: size must be 1 to {SIDE}, the width of the drawings; found {side}. Choose "
            "another size."
        )
    return side


def build(root: Path, split: str, side: int, download: bool) -> Splits:
    """Read, verify and reduce all drawings."""
    background, evaluation = (read_part(root, part, download) for part in PARTS)
    drawings = background | evaluation
    members = (
        vinyals_members()
        if split == "vinyals"
        else lake_members(sorted(background), sorted(evaluation))
    )
    return {
        name: LabelledRows(
            torch.from_numpy(np.concatenate([reduce(drawings[c], side) for c in characters])),
            torch.full((len(characters),), DRAWERS),
            tuple(characters),
        )
        for name, characters in members.items()
    }


def vinyals_members() -> dict[str, list[str]]:
    """The characters of each split of Vinyals et al."""
    lists = published_split("omniglot_vinyals")
    return {
        split: [
            f"{alphabet}/character{number:02d}"
            for alphabet, (first, last) in lists[split].items()
            for number in range(first, last + 1)
        ]
        for split in ("train", "val", "test")
    }


def lake_members(background: list[str], evaluation: list[str]) -> dict[str, list[str]]:
    """Lake's background and evaluation alphabets, five background ones kept for validation."""
    alphabets = {name.split("/")[0] for name in background}
    ranked = sorted(alphabets, key=lambda a: hashlib.sha256(a.encode()).hexdigest())
    held_out = set(ranked[:LAKE_VALIDATION_ALPHABETS])
    return {
        "train": [n for n in background if n.split("/")[0] not in held_out],
        "val": [n for n in background if n.split("/")[0] in held_out],
        "test": evaluation,
    }


def read_part(root: Path, part: Part, download: bool) -> Drawings:
    """The drawings of one archive or unpacked folder, complete and unaltered."""
    source = find([root / "omniglot", root], [part.name, f"{part.name}.zip"])
    if source is None:
        if not download:
            raise FileNotFoundError(
                f"omniglot: neither {part.name} nor {part.name}.zip is in {root / 'omniglot'}. "
                f"Allow the download, or get it from {part.url} and put it there."
            )
        source = fetch(part.url, writable_folder(root, "omniglot"), f"md5:{part.md5}")
    drawings = decode(source, part.characters * DRAWERS)
    short = [name for name, images in drawings.items() if len(images) != DRAWERS]
    if len(drawings) != part.characters or short:
        raise ArchiveError(
            f"{source}: must hold {part.characters} characters of {DRAWERS} drawings; found "
            f"{len(drawings)} characters{f', not {DRAWERS} of {short[0]}' if short else ''}. "
            "Delete it and download it again."
        )
    if digest(drawings) != part.content:
        raise ArchiveError(
            f"{source}: the drawings differ from the published ones (digest "
            f"{digest(drawings)[:16]}…, expected {part.content[:16]}…). Delete it and download it "
            "again."
        )
    return drawings


def decode(source: Path, total: int) -> Drawings:
    """Every drawing in ``source``, sorted by name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    pictures = entries(source, lambda name: name.endswith(".png"), Limits(file_bytes=2**16))
    for name, data in track(pictures, f"Decoding {source.name}", total):
        path = PurePosixPath(name)
        character = "/".join(path.parts[-3:-1])
        found.setdefault(character, {})[path.name] = ink(data, f"{source}: {name}")
    return {
        character: np.stack([images[n] for n in sorted(images)])
        for character, images in sorted(found.items())
    }


def ink(data: bytes, name: str) -> np.ndarray:
    """(105, 105) bool: True where the PNG is black."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"it is {image.width} x {image.height}, not {SIDE} x {SIDE}")
            return ~np.asarray(image.convert("1"))
    except Exception as error:  # a decoder may raise any error for damaged bytes
        raise ArchiveError(f"{name}: not a drawing of Omniglot ({error}).") from error


def digest(drawings: Drawings) -> str:
    """SHA-256 over the names and the ink of all drawings, independent of packing."""
    total = hashlib.sha256()
    for character, images in sorted(drawings.items()):
        total.update(character.encode() + b"\0")
        total.update(np.packbits(images).tobytes())
    return total.hexdigest()


def reduce(drawings: np.ndarray, side: int) -> np.ndarray:
    """(n, 105, 105) bool -> (n, 1, side, side) uint8: the share of ink in each pixel's area."""
    overlap = overlaps(SIDE, side).astype(np.float64)
    # integers below 2^53: sums are exact, and so independent of their order
    inked = overlap @ drawings.astype(np.float64) @ overlap.T
    return np.floor(255 * inked / SIDE**2 + 0.5).astype(np.uint8)[:, None]
