"""Detection in the user's own folder, from boxes to boxes on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy as qs
from drawn_tiles import COLOURS, tiles
from quickstudy.answers.boxes import is_box
from quickstudy.applications.detection import LEAST_SHOWN, Detection, _objects
from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets.box_files import read_box_folder
from quickstudy.tasks.boxes import BaseTasks, BoxedPictures, BoxTasks, painted_over
from quickstudy.tasks.numbering import draw

SMALL = Detection(size=64, seen=64, crop=32, steps=2, batch=2)


SHOWN = [["blue", "green"], ["blue"], ["green", "blue"], ["green"], ["red", "blue"], ["red"]] * 2


def test_a_run_trains_on_base_classes_alone_and_asks_for_all(tmp_path: Path) -> None:
    root = tiles(tmp_path, SHOWN)
    prepared = SMALL.prepare("own", root, "crop_detection", 1, 0)
    assert "red" in prepared.about  # the rarest
    assert isinstance(prepared.train, BaseTasks)
    held = prepared.train.data
    assert not held.showing([held.names.index("red")])[prepared.train.rows].any()
    task = draw(prepared.train, 0, 0)
    assert task.spec == qs.detection(2)
    asked = draw(prepared.test, 0, 0)
    assert asked.spec == qs.detection(3, base=2)
    assert asked.support.targets["classes"][is_box(asked.support.targets)].unique().tolist() == [
        0,
        1,
        2,
    ]
    assert prepared.names is not None
    assert prepared.names(torch.Generator()) == ["blue", "green", "red"]
    other = SMALL.prepare("own", root, "crop_detection", 1, 0)
    for name, value in prepared.learner.state_dict().items():
        assert torch.equal(value, other.learner.state_dict()[name]), name
    qs.fit(prepared.learner, prepared.train, 2, 1, progress=False)
    found = qs.evaluate(prepared.learner, prepared.test, 2, baselines=False)
    assert [row.score for row in found.rows] == ["novel AP50", "base AP50", "AP50"]


def test_a_support_has_as_many_boxes_of_each_class_and_no_others(tmp_path: Path) -> None:
    held = read_box_folder(tiles(tmp_path, SHOWN), 64)
    rows = torch.arange(8)
    source = BoxTasks(held, [0, 1], [2], 2, rows, torch.arange(8, 12))
    for number in range(5):
        classes = draw(source, 0, number).support.targets["classes"]
        assert Counter(classes[classes >= 0].tolist()) == {0: 2, 1: 2, 2: 2}
    query = draw(source, 0, 0).query.targets["classes"]
    assert torch.equal(query, held.classes[8:12])
    with pytest.raises(ValueError, match="9 shots asked, but class 'blue' has 5 objects"):
        BoxTasks(held, [0, 1], [2], 9, rows, rows)


def test_own_pictures_are_trained_on_or_asked_for() -> None:
    held = BoxedPictures(
        torch.zeros(9, 3, 4, 4), torch.zeros(9, 1, 4), torch.zeros(9, 1).long(), ("a",),
        ("",) * 9, ("all",) * 9,
    )  # fmt: skip
    train, query = SMALL._parts(held)
    assert (len(train), len(query)) == (7, 2)
    assert sorted([*train.tolist(), *query.tolist()]) == list(range(9))


def test_shares_of_the_square_become_pixels_of_a_wide_picture() -> None:
    logits = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 9.0]]])
    boxes = torch.tensor([[[0.25, 0.1, 0.5, 0.6], [0.5, 0.5, 1.0, 0.9], [0.0, 0.0, 1.0, 1.0]]])
    found = _objects(
        lambda _: {"boxes": boxes, "logits": logits},  # type: ignore[arg-type]
        torch.zeros(3, 8, 8), ["blue", "red"], (80, 60),
    )  # fmt: skip
    assert [(each["class"], each["box"]) for each in found] == [
        ("red", [40.0, 40.0, 80.0, 60.0]),  # cut at the lower edge
        ("blue", [20.0, 8.0, 40.0, 48.0]),
    ]


def test_mirrored_pictures_have_mirrored_boxes(tmp_path: Path) -> None:
    held = read_box_folder(tiles(tmp_path, [["blue"], ["blue"]]), 80)
    source = BaseTasks(held, [0], torch.arange(2), 2)
    mirrored = set()
    for number in range(6):
        task = draw(source, 0, number)
        left, top, right, bottom = (task.support.targets["boxes"][0, 0] * 80).round().int().tolist()
        inside = task.support.inputs[0, :, top + 1 : bottom - 1, left + 1 : right - 1]
        expected = torch.tensor(COLOURS["blue"]) / 255
        assert torch.allclose(inside.mean((1, 2)), expected, atol=0.02)
        mirrored.add(left > 40)
    assert mirrored == {True, False}


def test_painted_over_objects_are_gone(tmp_path: Path) -> None:
    held = read_box_folder(tiles(tmp_path, [["blue", "red"]]), 80)
    red = held.names.index("red")
    found = painted_over(held, [red])
    assert not found.showing([red]).any()
    left, top, right, bottom = (held.boxes[0, 1] * 80).round().int().tolist()
    assert (
        int(np.ptp(found.pictures[0, :, top:bottom, left:right].flatten(1).numpy(), 1).max()) == 0
    )
    assert torch.equal(found.pictures[0, :, :, :left], held.pictures[0, :, :, :left])


def test_a_folder_becomes_a_predictor_that_writes_boxes_in_pixels(tmp_path: Path) -> None:
    learner = SMALL.learner("crop_prototypes", 0, 0)
    support = SMALL.support(tiles(tmp_path / "own", [["blue", "red"], ["red"]]), learner)
    with torch.no_grad():
        # An untrained head that is certain of a centre wherever something is.
        learner.head.heat.bias.fill_(4.0)
    made = learner(support.examples, support.spec)
    predictor = qs.Predictor(learner, made.state, support.spec, support.info)
    predictor = qs.load(qs.save(predictor, tmp_path / "own.safetensors"))
    new = tiles(tmp_path / "new", [["red"]], seed=1)
    (new / "images" / "broken.png").write_bytes(b"\x89PNG no picture")
    with pytest.warns(SkippedInput, match="broken.png: not an image"):
        inputs, names = SMALL.inputs([new / "images"], predictor)
    out = tmp_path / "out"
    out.mkdir()
    (row,) = SMALL.written(predictor, inputs, names, out)
    assert row["name"] == names[0]
    assert row["boxes"]
    certain = [each["confidence"] for each in row["boxes"]]
    assert certain == sorted(certain, reverse=True)
    assert min(certain) >= LEAST_SHOWN
    for each in row["boxes"]:
        left, top, right, bottom = each["box"]
        assert 0 <= left <= right <= 80
        assert 0 <= top <= bottom <= 60
        assert each["class"] in ("blue", "red")
    with Image.open(row["picture"]) as picture:
        assert picture.size == (80, 60)
    assert "picture" not in SMALL.written(predictor, inputs, names, None)[0]


def test_what_a_run_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the folder .*--root FOLDER"):
        SMALL.prepare("own", None, "crop_detection", None, 0)
    root = tiles(tmp_path, [["blue"], ["blue"]])
    with pytest.raises(ValueError, match="needs 2 classes or more; found blue"):
        SMALL.prepare("own", root, "crop_detection", 1, 0)
    with pytest.raises(ValueError, match="novel must name some of the classes blue, not all"):
        Detection(novel="blue").prepare("own", root, "crop_detection", 1, 0)
    with pytest.raises(ValueError, match="split must be 0, 1 or 2; found 3"):
        Detection(split=3).prepare("playing_cards", None, "crop_detection", 1, 0)


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"seen": 8}, {"crop": 0}, {"queries": 0}, {"steps": -1}, {"batch": 1}]
)
def test_numbers_out_of_range_are_refused_before_pictures_are_read(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"detection: {name} must be \d+ to .* --set {name}="):
        Detection(**wrong)


def test_a_new_class_that_is_named_twice_is_one(tmp_path: Path) -> None:
    held = read_box_folder(tiles(tmp_path, [["blue", "red"], ["red"]]), 64)
    assert Detection(novel="red, red")._novel(held) == [held.names.index("red")]


def test_the_data_sets_are_as_published(shared_data: Path) -> None:
    from quickstudy.datasets import playing_cards

    held = playing_cards.load(shared_data, size=32)
    assert len(held) == 363
    assert Counter(held.parts) == {"train": 296, "test": 67}
    assert int((held.classes >= 0).sum()) == 670
    new = torch.tensor([list(pair) for pair in playing_cards.SPLITS])
    assert new.flatten().unique().tolist() == list(range(6))  # each rank is new once
