"""The boxes in one file: VOC XML, of one picture, or COCO JSON, of many."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from typing import Any, NamedTuple
from xml.parsers import expat

from quickstudy.base.shown import shown, told
from quickstudy.base.words import first_few

MOST_XML = 2**20
"""Bytes of an XML file."""


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
