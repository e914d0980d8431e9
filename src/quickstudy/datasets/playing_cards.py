"""Playing cards: photographs of cards of six ranks, each with a box."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

from quickstudy.datasets.box_files import with_boxes
from quickstudy.datasets.box_formats import Annotated, Box
from quickstudy.datasets.cache import data_root
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, find
from quickstudy.tasks.boxes import BoxedPictures

RANKS = ("nine", "ten", "jack", "queen", "king", "ace")
SPLITS = ((0, 3), (1, 4), (2, 5))
"""The new ranks of each class split: every rank is new in one, a number or ten beside a face."""
SIZE = 320
ARCHIVE, BOXES = "playing_cards.zip", "boxes.csv"


def load(root: str | Path | None = None, *, size: int | None = None) -> BoxedPictures:
    """363 photographs (3, size, size) of the parts "train" and "test", with 670 boxes.

    ``root``  holds ``playing_cards/`` with ``playing_cards.zip`` and ``boxes.csv``.
    ``size``  of the square that the longer side of a picture fills; 320 by default.

    Raises FileNotFoundError for missing files, ArchiveError where they differ from those expected.
    """
    folder = data_root(root)
    archive = find([folder / "playing_cards", folder], [ARCHIVE])
    table = find([folder / "playing_cards", folder], [BOXES])
    if archive is None or table is None:
        raise FileNotFoundError(
            f"playing_cards: needs {ARCHIVE} and {BOXES} in {folder / 'playing_cards'}. See "
            f"{card('playing_cards').url}."
        )
    for path in (archive, table):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != card("playing_cards").digest(path.name):
            raise ArchiveError(f"{path}: has the wrong checksum. Get it again.")
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))):
        rows.setdefault(row["image"], []).append(row)
    pictures = dict(entries(archive, lambda name: name in rows))
    edges = ("xmin", "ymin", "xmax", "ymax")
    sources = []
    for name, of_picture in rows.items():
        boxes = tuple(Box(r["class"], *(float(r[e]) for e in edges)) for r in of_picture)
        own = int(of_picture[0]["width"]), int(of_picture[0]["height"])
        sources.append((pictures[name], name, Annotated(name, boxes, own)))
    parts = [of_picture[0]["split"] for of_picture in rows.values()]
    return with_boxes(sources, size or SIZE, RANKS, parts, reach=1.0)
