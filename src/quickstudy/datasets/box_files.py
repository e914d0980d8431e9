"""Pictures with the boxes in their files: VOC XML, one a picture, or one COCO JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from quickstudy.base.names import warn_of_alike
from quickstudy.base.shown import shown
from quickstudy.base.words import first_few
from quickstudy.datasets.box_formats import (
    MOST_XML,
    Annotated,
    Box,
    BoxError,
    read_coco,
    read_voc,
)
from quickstudy.datasets.images import SUFFIXES, opened_safely, upright
from quickstudy.tasks.boxes import BoxedPictures

IMAGES, ANNOTATIONS, COCO = "images", "annotations", "boxes.json"
MOST_JSON = 2**28
"""Bytes of the COCO file."""
MOST_BOXES = 1000
"""In a picture."""
GREY = 127
"""Of the rest of the square beside a picture that is not square."""


def letterboxed(source: Path | bytes, name: str, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(3, size, size) uint8 and the picture's own width and height, upright.

    The whole picture at the top left, its longer side ``size`` pixels; the rest is grey. Modes of
    colour are treated as by :func:`.decode`. Raises ImageError, naming the file, for what is no
    usable picture.
    """
    from PIL import Image

    with opened_safely(source, name) as opened:
        image = upright(opened, 3)
    width, height = image.size
    scale = size / max(width, height)
    inside = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(image.resize(inside, Image.Resampling.BICUBIC))
    square = np.full((size, size, 3), GREY, np.uint8)
    square[: inside[1], : inside[0]] = pixels
    return square.transpose(2, 0, 1), (width, height)


def read_box_folder(
    path: str | Path, size: int, names: Sequence[str] | None = None
) -> BoxedPictures:
    """The pictures in ``path/images`` with boxes in ``path/annotations`` or ``path/boxes.json``.

    ``annotations`` holds a VOC XML file of the same name for each picture; ``boxes.json`` is COCO.

    ``names``  the classes, in order; by default those that occur, in alphabetical order.

    Raises FileNotFoundError for a missing folder or file, ImageError for a picture that cannot be
    read, and :class:`BoxError` for wrong boxes: see :func:`with_boxes`.
    """
    top = Path(path).expanduser()
    pictures = top / IMAGES
    if not pictures.is_dir():
        raise FileNotFoundError(
            f"{pictures}: must be a folder of pictures; there is none. Put the pictures there, and "
            f"a VOC XML file of each into {ANNOTATIONS}/, or one COCO file {COCO} beside it."
        )
    files = {
        p.name: p for p in sorted(pictures.iterdir())
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    }  # fmt: skip
    found = _coco_of(top) if (top / COCO).is_file() else _voc_of(top, files)
    _refuse_twice(top, found)
    if not found:
        raise FileNotFoundError(
            f"{top}: needs boxes of at least one picture; found none. Put VOC XML files into "
            f"{ANNOTATIONS}/, or a COCO file at {COCO}."
        )
    sources = []
    for each in found:
        file = files.get(Path(each.file).name)
        if file is None:
            raise FileNotFoundError(
                f"{pictures}: there is no picture {shown(each.file)}, which has boxes. Add it, or "
                "remove its boxes."
            )
        sources.append((file, str(file), each))
    return with_boxes(sources, size, names)


def _refuse_twice(top: Path, found: Sequence[Annotated]) -> None:
    """BoxError where two entries are for one picture: by its name, whatever folder they give."""
    names = [Path(each.file).name for each in found]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BoxError(
            f"{top}: boxes of each picture must be given once; found {shown(twice[0])} more than "
            f"once in {COCO}. Give the pictures different names, or join the entries."
        )


def _voc_of(top: Path, files: dict[str, Path]) -> list[Annotated]:
    folder, found = top / ANNOTATIONS, []
    stems = Counter(Path(name).stem for name in files)
    for name in files:
        if stems[Path(name).stem] > 1:
            raise BoxError(
                f"{top / IMAGES}: names without their endings must differ, since each has a file "
                f"of boxes; found {shown(name)} and another. Rename one of them, and its boxes."
            )
        annotation = folder / f"{Path(name).stem}.xml"
        if not annotation.is_file():
            raise FileNotFoundError(
                f"{annotation}: every picture needs its boxes; there is no such file. Add it, with "
                "no object where there is none, or move the picture away."
            )
        with annotation.open("rb") as file:
            content = file.read(MOST_XML + 1)
        found.append(read_voc(content, str(annotation))._replace(file=name))
    files_of_boxes = [p for p in sorted(folder.glob("*.xml")) if not p.name.startswith(".")]
    alone = [p.name for p in files_of_boxes if p.stem not in stems]
    if alone and found:
        raise FileNotFoundError(
            f"{folder}: every file of boxes needs a picture of its name in {IMAGES}/; found none "
            f"for {first_few(alone, 3)}. Add the pictures, or remove these files."
        )
    return found


def _coco_of(top: Path) -> list[Annotated]:
    file = top / COCO
    if file.stat().st_size > MOST_JSON:
        raise BoxError(f"{file}: must have at most {MOST_JSON:,} bytes. Divide it.")
    return read_coco(file.read_bytes(), str(file))


def with_boxes(
    sources: Sequence[tuple[Path | bytes, str, Annotated]],
    size: int,
    names: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    reach: float = 0.0,
) -> BoxedPictures:
    """Pictures, each with its name in errors and its boxes, as one :class:`BoxedPictures`.

    ``reach``  pixels that a box may lie outside; it is then cut at the edge.

    Raises :class:`BoxError` for a box outside its picture or without area, a class that is none of
    ``names``, a picture of another size than its boxes say, and no box at all.
    """
    known = sorted({b.name for *_, a in sources for b in a.boxes}) if names is None else list(names)
    warn_of_alike("boxes", known)
    pixels, rows = [], []
    for source, name, annotated in sources:
        picture, own = letterboxed(source, name, size)
        if annotated.size is not None and annotated.size != own:
            raise BoxError(
                f"{name}: boxes are for a picture of {annotated.size[0]} x {annotated.size[1]} "
                f"pixels; found {own[0]} x {own[1]}, upright. Export the boxes for this picture."
            )
        if len(annotated.boxes) > MOST_BOXES:
            raise BoxError(
                f"{name}: has {len(annotated.boxes)} boxes; the limit is {MOST_BOXES}. Cut the "
                "picture into tiles."
            )
        for box in annotated.boxes:
            _refuse_wrong(name, box, own, known, reach)
        pixels.append(picture)
        rows.append([_shares(box, own) for box in annotated.boxes])
    most = max(map(len, rows), default=0)
    if not most:
        raise BoxError(
            "boxes: there must be at least one box in all pictures; found none. Add one."
        )
    boxes = torch.full((len(rows), most, 4), torch.nan)
    classes = torch.full((len(rows), most), -1)
    for i, (row, (*_, annotated)) in enumerate(zip(rows, sources, strict=True)):
        if row:
            boxes[i, : len(row)] = torch.tensor(row)
            classes[i, : len(row)] = torch.tensor([known.index(b.name) for b in annotated.boxes])
    return BoxedPictures(
        torch.from_numpy(np.stack(pixels)), boxes, classes, tuple(known),
        tuple(name for _, name, _ in sources), tuple(parts or ["all"] * len(rows)),
    )  # fmt: skip


def _refuse_wrong(
    name: str, box: Box, size: tuple[int, int], known: Sequence[str], reach: float
) -> None:
    edges = f"({box.left:g}, {box.top:g}, {box.right:g}, {box.bottom:g})"
    if box.name not in known:
        raise BoxError(
            f"{name}: classes must be {first_few(list(known), 8)}; found {shown(box.name)}. "
            "Rename it, or add the class."
        )
    if box.right <= box.left or box.bottom <= box.top:
        raise BoxError(
            f"{name}: a box must have an area, left < right and top < bottom; found {edges} of "
            f"{shown(box.name)}. Correct or remove it."
        )
    inside = (
        min(box.left, box.top) >= -reach
        and box.right <= size[0] + reach
        and box.bottom <= size[1] + reach
    )
    if not inside:
        raise BoxError(
            f"{name}: boxes must lie inside of their picture, {size[0]} x {size[1]} pixels; found "
            f"{edges} of {shown(box.name)}. Cut it at the edge, or check which picture it is for."
        )


def _shares(box: Box, size: tuple[int, int]) -> list[float]:
    """The edges as shares of the square that :func:`letterboxed` gives."""
    side = max(size)
    x = [min(max(edge, 0.0), size[0]) / side for edge in (box.left, box.right)]
    y = [min(max(edge, 0.0), size[1]) / side for edge in (box.top, box.bottom)]
    return [x[0], y[0], x[1], y[1]]
