"""Pictures with boxes from files: VOC XML, one a picture, or one COCO JSON."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np
import torch

from quickstudy.base.names import warn_of_alike
from quickstudy.base.shown import shown, told
from quickstudy.base.words import first_few
from quickstudy.datasets.images import SUFFIXES, opened_safely, upright
from quickstudy.tasks.boxes import BoxedPictures

IMAGES, ANNOTATIONS, COCO = "images", "annotations", "boxes.json"
MOST_XML, MOST_JSON = 2**20, 2**28
"""Bytes of one annotation file."""
MOST_BOXES = 1000
"""In a picture."""
GREY = 127
"""Of the rest of the square beside a picture that is not square."""


class BoxError(ValueError):
    """A file of boxes that cannot be used."""


class Box(NamedTuple):
    """An object: its class and its edges in pixels."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


class Annotated(NamedTuple):
    """The boxes of one picture, and its size in pixels where the file states it."""

    file: str
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None


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


def read_voc(content: bytes, name: str) -> Annotated:
    """The boxes of one VOC XML file.

    Edges are taken as they stand, from 0 at the left and upper edge of the picture, as programs
    that draw boxes write them. Files of PASCAL VOC itself count pixels from 1: their left and upper
    edges are read one pixel too far inside.

    Raises :class:`BoxError`, naming the file, for what is no such file, for one with a DOCTYPE,
    which could declare entities, and for an object without a name or with edges that are no
    numbers.
    """
    if len(content) > MOST_XML:
        raise BoxError(
            f"{name}: must be VOC XML of at most {MOST_XML:,} bytes; found more. Export the boxes "
            "again."
        )
    try:
        _refuse_doctype(content, name)
        root = ET.fromstring(content)
    except (ET.ParseError, expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, BoxError):
            raise
        raise BoxError(
            f"{name}: must be VOC XML; it cannot be read ({told(error)}). The file is damaged or "
            "cut off: export it again."
        ) from error
    size = root.find("size")
    stated = None
    if size is not None:
        width, height = (_number(name, size, edge) for edge in ("width", "height"))
        stated = (int(width), int(height)) if width and height else None
    boxes = []
    for each in root.iter("object"):
        edges, label = each.find("bndbox"), (each.findtext("name") or "").strip()
        if edges is None or not label:
            raise BoxError(
                f"{name}: every object needs a name and a bndbox; found {shown(label) or 'none'}. "
                "Add what is missing, or remove the object."
            )
        boxes.append(
            Box(label, *(_number(name, edges, e) for e in ("xmin", "ymin", "xmax", "ymax")))
        )
    return Annotated((root.findtext("filename") or "").strip(), tuple(boxes), stated)


def _refuse_doctype(content: bytes, name: str) -> None:
    """:class:`BoxError` for a DOCTYPE, in whatever encoding; entities would expand."""

    def found(*_: object) -> None:
        raise BoxError(
            f"{name}: must be VOC XML without a DOCTYPE; found one. Export the boxes again."
        )

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = found
    parser.Parse(content, True)


def _number(name: str, part: ET.Element, edge: str) -> float:
    text = part.findtext(edge) or ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BoxError(
            f"{name}: {edge} must be a number; found {shown(text)}. Correct it, or export the "
            "boxes again."
        )
    return number


def read_coco(content: bytes, name: str) -> list[Annotated]:
    """The boxes of all pictures of a COCO JSON file; crowds are left out.

    Raises :class:`BoxError`, naming the file and the annotation, for what is no such file.
    """
    try:
        given: Any = json.loads(content)
        names = {each["id"]: str(each["name"]) for each in given["categories"]}
        files = {each["id"]: each for each in given["images"]}
        boxes: dict[Any, list[Box]] = {number: [] for number in files}
        annotations = list(given["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BoxError(
            f"{name}: must be COCO JSON with images, annotations and categories "
            f"({type(error).__name__}: {told(error)}). Export it again."
        ) from error
    for i, each in enumerate(annotations):
        try:
            if each.get("iscrowd"):
                continue
            if not isinstance(each["bbox"], list):
                raise TypeError("bbox is no list")
            left, top, width, height = (float(edge) for edge in each["bbox"])
            if each["category_id"] not in names:
                raise BoxError(
                    f"{name}: annotation {i} has the unknown class {each['category_id']!r}; the "
                    f"categories are {first_few([str(n) for n in names], 8)}. Add it to them, or "
                    "remove the annotation."
                )
            label = names[each["category_id"]]
            boxes[each["image_id"]].append(Box(label, left, top, left + width, top + height))
        except BoxError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise BoxError(
                f"{name}: annotation {i} must have an image_id of the images, a category_id and a "
                f"bbox of four numbers ({type(error).__name__}: {told(error)}). Correct it."
            ) from error
    found = []
    for number, each in files.items():
        size = (each.get("width"), each.get("height"))
        stated = (int(size[0]), int(size[1])) if all(isinstance(s, int) for s in size) else None
        found.append(Annotated(str(each.get("file_name", "")), tuple(boxes[number]), stated))
    return found


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
    alone = sorted(p.name for p in folder.glob("*.xml") if p.stem not in stems)
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
