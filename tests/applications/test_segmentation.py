"""Segmentation of the user's own folder, from labelled pictures to masks on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy as qs
from quickstudy.applications.segmentation import (
    FROM_SCRATCH,
    Segmentation,
    enlarged_classes,
    overlaid,
)
from quickstudy.backbones.feature_maps import resized
from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets.images import ImageError
from quickstudy.tasks.numbering import draw

SIDE = 32


def blobs(folder: Path, n: int, size: tuple[int, int] = (48, 40), seed: int = 0) -> list[Path]:
    """Pictures (width, height) of a bright disc with a red core, with masks of 0, 128 and 255."""
    random = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        y, x = np.mgrid[: size[1], : size[0]]
        centre = random.uniform(14, 26, 2)
        r = np.hypot(y - centre[0], x - centre[1])
        mask = np.where(r < 6, 255, np.where(r < 12, 128, 0)).astype(np.uint8)
        pixels = random.integers(0, 60, (*mask.shape, 3))
        pixels[mask > 0] += 120
        pixels[mask == 255, 0] += 70
        paths.append(folder / "images" / f"{i}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return paths


def test_a_folder_becomes_a_predictor_that_writes_masks_of_its_values(tmp_path: Path) -> None:
    blobs(tmp_path / "own", 2)
    (tmp_path / "own" / "classes.txt").write_text("0 ground\n128 disc\n255 core\n")
    new = blobs(tmp_path / "new", 1, (80, 60), seed=1)
    app = Segmentation(size=64, steps=60)
    learner = app.learner("pixel_head", 0, trained=False)
    support = app.support(tmp_path / "own", learner)
    predictor = qs.Predictor(
        learner, learner.adapt(support.examples, support.spec), support.spec, support.info
    )
    file = qs.save(predictor, tmp_path / "own.safetensors")
    predictor = qs.load(file)
    inputs, names = app.inputs([tmp_path / "new" / "images"], predictor)
    assert names == [str(new[0])]
    out = tmp_path / "out"
    out.mkdir()
    (row,) = app.written(predictor, inputs, names, out)
    assert row["name"] == str(new[0])
    assert list(row["shares"]) == ["ground", "disc", "core"]
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    with Image.open(row["mask"]) as mask, Image.open(row["overlay"]) as overlay:
        assert mask.size == overlay.size == (80, 60)
        values = np.asarray(mask)
    assert set(np.unique(values)) <= {0, 128, 255}
    with Image.open(tmp_path / "new" / "masks" / "0.png") as true:
        right = (values == np.asarray(true)).mean()
    commonest = (np.asarray(Image.open(tmp_path / "new" / "masks" / "0.png")) == 0).mean()
    assert right > commonest + 0.03
    assert "mask" not in app.written(predictor, inputs, names, None)[0]


def test_a_run_on_own_pictures_tests_on_others_than_the_support(tmp_path: Path) -> None:
    blobs(tmp_path, 4)
    prepared = Segmentation(size=SIDE, queries=8).prepare("own", tmp_path, "pixel_head", None, 0)
    assert prepared.train is None
    assert prepared.steps == 0
    task = draw(prepared.test, 0, 0)
    assert (len(task.support.weights), len(task.query.weights)) == (3, 1)
    assert prepared.names(torch.Generator()) == ("background", "class 128", "class 255")
    assert FROM_SCRATCH in prepared.baselines
    other = Segmentation(size=SIDE).prepare("own", tmp_path, "pixel_head", None, 0)
    for a, b in zip(prepared.learner.parameters(), other.learner.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_needs_a_folder_of_two_pictures(tmp_path: Path) -> None:
    app = Segmentation(size=SIDE)
    with pytest.raises(ValueError, match=r"needs the folder .*--root FOLDER"):
        app.prepare("own", None, "pixel_head", None, 0)
    blobs(tmp_path, 1)
    with pytest.raises(ValueError, match=r"needs two pictures with masks or more.* found 1"):
        app.prepare("own", tmp_path, "pixel_head", None, 0)


def test_what_cannot_be_read_is_left_out_or_refused(tmp_path: Path) -> None:
    blobs(tmp_path, 1)
    predictor = qs.Predictor(None, {}, qs.segmentation(3), {"size": SIDE})  # type: ignore[arg-type]
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG no picture")
    with pytest.warns(SkippedInput, match=r"broken.png: not an image"):
        inputs, names = Segmentation().inputs([tmp_path / "images"], predictor)
    assert len(inputs) == len(names) == 1
    with pytest.raises(ImageError, match=r"broken.png"):
        Segmentation(strict=True).inputs([tmp_path / "images"], predictor)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="there are no pictures in"):
        Segmentation().inputs([tmp_path / "none"], predictor)


def test_an_overlay_leaves_the_first_class_grey(tmp_path: Path) -> None:
    (picture,) = blobs(tmp_path, 1)
    ids = np.zeros((40, 48), np.int64)
    ids[:, 24:] = 2
    found = overlaid(str(picture), ids)
    assert (np.ptp(found[:, :24], axis=2) == 0).all()
    assert (np.ptp(found[:, 24:].astype(int), axis=2) > 0).all()


def test_an_overlay_has_the_size_of_its_picture_however_narrow_and_turned(tmp_path: Path) -> None:
    """A square as large as the longer side of this one would not fit into memory."""
    pixels = np.zeros((4, 200_000), np.uint8)
    pixels[0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right-most column
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = overlaid(str(tmp_path / "a.png"), np.zeros((200_000, 4), np.int64))
    assert found.shape == (200_000, 4, 3)
    assert found[5, :, 0].tolist() == [0, 0, 0, 200]


@pytest.mark.parametrize("wrong", [{"size": 8}, {"queries": 0}, {"steps": -1}, {"pictures": 0}])
def test_numbers_out_of_range_are_refused_before_pictures_are_read(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"segmentation: {name} must be \d+ to .* --set {name}="):
        Segmentation(**wrong)


def test_pictures_in_hidden_folders_are_not_predicted(tmp_path: Path) -> None:
    blobs(tmp_path, 1)
    hidden = tmp_path / "images" / ".thumbnails"
    hidden.mkdir()
    (hidden / "0.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    predictor = qs.Predictor(None, {}, qs.segmentation(3), {"size": SIDE})  # type: ignore[arg-type]
    _, names = Segmentation().inputs([tmp_path / "images"], predictor)
    assert names == [str(tmp_path / "images" / "0.png")]


@pytest.mark.parametrize("size", [(37, 50), (5, 4), (8, 9)])
def test_classes_of_a_picture_are_those_of_its_enlarged_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(4, 8, 9, generator=torch.Generator().manual_seed(0))
    expected = resized(logits[None], size)[0].argmax(0)
    assert torch.equal(enlarged_classes(logits, size), expected)


def test_no_shots_are_refused_and_not_taken_for_the_default(tmp_path: Path) -> None:
    blobs(tmp_path, 3)
    with pytest.raises(ValueError, match=r"needs 0 \+ 3 pictures, at least one of each"):
        Segmentation(size=SIDE).prepare("own", tmp_path, "pixel_head", 0, 0)
