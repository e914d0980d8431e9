"""Blood cells: stained blood under a microscope, with a box for each cell (BCCD)."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from quickstudy.datasets.box_files import with_boxes
from quickstudy.datasets.box_formats import read_voc
from quickstudy.datasets.cache import data_root
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, find
from quickstudy.tasks.boxes import BoxedPictures

CELLS = ("RBC", "WBC", "Platelets")
"""Red and white blood cells, and platelets."""
PARTS = ("train", "val", "test")
SIZE = 320
ARCHIVE = "BCCD.zip"


def load(root: str | Path | None = None, *, size: int | None = None) -> BoxedPictures:
    """364 photographs (3, size, size) of the parts "train", "val" and "test".

    Boxes without area, of which the published files have a few, are left out.

    ``root``  holds ``bccd/`` with ``BCCD.zip``.
    ``size``  of the square that the longer side of a picture fills; 320 by default.

    Raises FileNotFoundError for a missing file, ArchiveError where it differs from that expected.
    """
    folder = data_root(root)
    archive = find([folder / "bccd", folder / "blood_cells", folder], [ARCHIVE])
    if archive is None:
        raise FileNotFoundError(
            f"blood_cells: needs {ARCHIVE} in {folder / 'bccd'}. Get the folder BCCD of "
            f"{card('blood_cells').url} and pack it."
        )
    if hashlib.sha256(archive.read_bytes()).hexdigest() != card("blood_cells").digest(ARCHIVE):
        raise ArchiveError(f"{archive}: has the wrong checksum. Get it again.")
    lists: dict[str, str] = {}
    boxes, pictures = {}, {}
    for name, content in entries(archive, lambda name: True):
        path = PurePosixPath(name)
        if path.parent.name == "Main" and path.stem in PARTS:
            lists |= dict.fromkeys(content.decode("ascii").split(), path.stem)
        elif path.suffix == ".xml":
            boxes[path.stem] = read_voc(content, name)
        elif path.suffix == ".jpg":
            pictures[path.stem] = content
    sources = []
    for stem in sorted(lists):
        found = boxes[stem]
        kept = tuple(b for b in found.boxes if b.right > b.left and b.bottom > b.top)
        sources.append((pictures[stem], f"{stem}.jpg", found._replace(boxes=kept)))
    return with_boxes(sources, size or SIZE, CELLS, [lists[s] for s in sorted(lists)], reach=1.0)
