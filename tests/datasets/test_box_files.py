"""Boxes from VOC XML and COCO JSON, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.datasets.box_files import letterboxed, read_box_folder
from quickstudy.datasets.box_formats import BoxError, read_coco, read_voc
from quickstudy.datasets.images import decode

VOC = (
    "<annotation><filename>a.png</filename><size><width>40</width><height>20</height></size>"
    "<object><name>cup</name><bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>30</xmax><ymax>15</ymax>"
    "</bndbox></object></annotation>"
)


def folder(path: Path, voc: str = VOC.format(10)) -> Path:
    """A picture of 40 x 20 pixels, and its boxes."""
    for part in ("images", "annotations"):
        (path / part).mkdir(parents=True)
    Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(path / "images" / "a.png")
    encoding = "utf-16" if "utf-16" in voc else "utf-8"
    (path / "annotations" / "a.xml").write_text(voc, encoding)
    return path


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 20}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 10]} | changes
        ],
    }


def test_both_formats_give_the_same_boxes_as_shares_of_the_square(tmp_path: Path) -> None:
    voc = read_box_folder(folder(tmp_path / "voc"), 80)
    other = folder(tmp_path / "coco")
    (other / "annotations" / "a.xml").unlink()
    (other / "boxes.json").write_text(json.dumps(coco()))
    as_coco = read_box_folder(other, 80)
    for found in (voc, as_coco):
        assert found.names == ("cup",)
        assert torch.equal(found.boxes[0, 0], torch.tensor([0.25, 0.125, 0.75, 0.375]))
        assert found.classes.tolist() == [[0]]
    assert voc.pictures.shape == (1, 3, 80, 80)
    assert int(voc.pictures[0, 0, 10, 40]) == 200  # the picture fills the upper half
    assert int(voc.pictures[0, 0, 60, 40]) == 127


def test_pictures_are_upright_before_boxes_are_read(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = picture.getexif()
    exif[0x112] = 6  # on its side
    picture.save(tmp_path / "a.jpg", exif=exif)
    pixels, size = letterboxed(tmp_path / "a.jpg", "a.jpg", 16)
    assert size == (20, 40)
    assert pixels.shape == (3, 16, 16)


def test_modes_of_colour_are_treated_as_in_all_other_pictures(tmp_path: Path) -> None:
    """16 bits become 8, transparency white: a detector sees what a classifier sees."""
    deep = np.linspace(0, 65_535, 64).astype(np.uint16)[None].repeat(64, 0)
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:32] = 200, 10, 10, 255
    for number, pixels in enumerate((deep, clear)):
        file = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(file)
        expected = decode(file, "picture", size=8, channels=3)
        assert np.array_equal(letterboxed(file, "picture", 8)[0], expected)


WRONG = {
    "outside": (VOC.format(-4), r"boxes must lie inside of their picture, 40 x 20 .*\(-4, 5, 30"),
    "no area": (VOC.format(30), r"a box must have an area.*\(30, 5, 30, 15\) of 'cup'"),
    "no number": (VOC.format("ten"), "xmin must be a number; found 'ten'"),
    "not finite": (VOC.format("nan"), "xmin must be a number; found 'nan'"),
    "cut off": (VOC.format(10)[:120], "must be VOC XML; it cannot be read.*cut off"),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "without a DOCTYPE"),
    "entities in 16 bits": (
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation/>',
        "without a DOCTYPE",
    ),
    "no name": (VOC.format(10).replace("cup", ""), "every object needs a name and a bndbox"),
    "other size": (VOC.format(10).replace(">40<", ">41<"), "picture of 41 x 20 .*found 40 x 20"),
    "nothing": ("<annotation/>", "at least one box in all pictures"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_boxes_are_refused_with_the_file_and_what_was_found(
    case: str, tmp_path: Path
) -> None:
    content, message = WRONG[case]
    with pytest.raises(BoxError, match=message):
        read_box_folder(folder(tmp_path, content), 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 9}, "annotation 0 has the unknown class 9; the categories are 3"),
        ({"bbox": [1, 2, 3]}, "annotation 0 must have an image_id"),
        ({"image_id": 8}, "annotation 0 must have an image_id"),
        ({"bbox": None}, "annotation 0 must have an image_id"),
        ({"bbox": "1234"}, "annotation 0 must have an image_id"),
        ({"bbox": [10**400, 1, 2, 3]}, "annotation 0 must have an image_id"),
    ],
)
def test_wrong_annotations_of_coco_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BoxError, match=message):
        read_coco(json.dumps(coco(**change)).encode(), "boxes.json")


def test_crowds_are_left_out_and_other_json_is_refused() -> None:
    (found,) = read_coco(json.dumps(coco(iscrowd=1)).encode(), "boxes.json")
    assert found.boxes == ()
    for content in (b"{", b"[]", b'{"images": 3}', b"[" * 100_000):
        with pytest.raises(BoxError, match="must be COCO JSON"):
            read_coco(content, "boxes.json")


def test_missing_files_and_unknown_classes_are_named(tmp_path: Path) -> None:
    made = folder(tmp_path / "own")
    with pytest.raises(BoxError, match="classes must be plate; found 'cup'"):
        read_box_folder(made, 32, names=["plate"])
    (made / "annotations" / "a.xml").unlink()
    with pytest.raises(FileNotFoundError, match="every picture needs its boxes"):
        read_box_folder(made, 32)
    with pytest.raises(FileNotFoundError, match="must be a folder of pictures"):
        read_box_folder(tmp_path / "nowhere", 32)
    (made / "boxes.json").write_text(json.dumps(coco()).replace("a.png", "b.png"))
    with pytest.raises(FileNotFoundError, match=r"there is no picture 'b.png'"):
        read_box_folder(made, 32)


def test_a_box_without_a_picture_size_is_read() -> None:
    found = read_voc(VOC.format(10).replace("size>", "measures>").encode(), "a.xml")
    assert found.size is None
    assert found.boxes[0].name == "cup"


def test_boxes_and_pictures_belong_together_one_by_one(tmp_path: Path) -> None:
    made = folder(tmp_path / "voc")
    (made / "annotations" / "._a.xml").write_bytes(b"notes of the system")
    assert len(read_box_folder(made, 32)) == 1
    (made / "annotations" / "b.xml").write_text(VOC.format(10))
    with pytest.raises(FileNotFoundError, match=r"needs a picture of its name .* none for b.xml"):
        read_box_folder(made, 32)
    (made / "annotations" / "b.xml").unlink()
    (made / "images" / "a.jpg").write_bytes((made / "images" / "a.png").read_bytes())
    with pytest.raises(BoxError, match=r"names without their endings must differ.*'a\.(png|jpg)'"):
        read_box_folder(made, 32)
    given = coco()
    given["images"].append({"id": 8, "file_name": "other/a.png"})
    (made / "boxes.json").write_text(json.dumps(given))
    with pytest.raises(BoxError, match=r"must be given once; found 'a\.png' more than once"):
        read_box_folder(made, 32)


def test_classes_that_differ_in_capital_letters_alone_are_warned_of(tmp_path: Path) -> None:
    given = coco()
    given["categories"].append({"id": 4, "name": "Cup"})
    given["annotations"].append({**given["annotations"][0], "category_id": 4})
    (folder(tmp_path) / "boxes.json").write_text(json.dumps(given))
    with pytest.warns(UserWarning, match=r"boxes: names .* found 'Cup' and 'cup'"):
        assert read_box_folder(tmp_path, 32).names == ("Cup", "cup")
