"""The format of training pictures, and other pictures made alike, on generated and real ones."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quickstudy import datasets
from quickstudy.base.door import to_unit
from quickstudy.datasets import omniglot
from quickstudy.datasets.images import decode
from quickstudy.datasets.pictures import PictureFormat, brightness, looks


def drawings(n: int = 40, side: int = 28, seed: int = 0, pen: int = 2) -> Tensor:
    """(n, 1, side, side) uint8: light strokes on a dark background."""
    random = np.random.default_rng(seed)
    pictures = np.zeros((n, 1, side, side), np.uint8)
    for picture in pictures:
        for _ in range(3):
            a, b = random.integers(side // 6, side - side // 6 - pen, 2)
            length = int(random.integers(side // 3, side // 2))
            if random.random() < 0.5:
                picture[0, a : a + pen, b : b + length] = 255
            else:
                picture[0, b : b + length, a : a + pen] = 255
    return torch.from_numpy(pictures)


def photographs(n: int = 40, side: int = 28, seed: int = 0) -> Tensor:
    """(n, 3, side, side) uint8: coloured gradients with noise."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, side)
    pictures = np.stack([
        np.stack([random.uniform(40, 200) + random.uniform(-40, 40) * ramp[:, None]
                  + random.uniform(-40, 40) * ramp for _ in range(3)])
        for _ in range(n)
    ])  # fmt: skip
    noisy = pictures + random.normal(0, 12, pictures.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))


def in_colour(pictures: Tensor) -> Tensor:
    return to_unit(pictures).expand(-1, 3, -1, -1)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def format_of(pictures: Tensor) -> PictureFormat:
    found = PictureFormat.of(pictures, "area")
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [(64, 64), (64, 90), (90, 64)])
def test_the_area_filter_is_the_mean_of_each_area(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = decode(png(pixels), "x", size=16, channels=3, resize="area")
    top, left = (shape[0] - 64) // 2, (shape[1] - 64) // 2
    square = pixels[top : top + 64, left : left + 64].astype(float)
    means = square.reshape(16, 4, 16, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, np.floor(means + 0.5))


def test_the_area_filter_splits_pixels_between_areas():
    row = np.array([0, 0, 30, 30, 240, 240], np.uint8)
    found = decode(png(np.tile(row, (6, 1))), "x", size=4, channels=1, resize="area")
    # each of the four covers 1.5 of the six pixels
    expected = [0, (0.5 * 0 + 30) / 1.5, (30 + 0.5 * 240) / 1.5, 240]
    assert found[0].tolist() == [[math.floor(value + 0.5) for value in expected]] * 4


def test_the_area_filter_does_the_same_in_large_pictures():
    pixels = np.random.default_rng(1).integers(0, 256, (1200, 1200), dtype=np.uint8)
    found = decode(png(pixels), "x", size=12, channels=1, resize="area")[0]
    means = pixels.reshape(12, 100, 12, 100).astype(float).mean((1, 3))
    np.testing.assert_array_equal(found, np.floor(means + 0.5))


def test_unknown_filters_are_refused():
    with pytest.raises(ValueError, match="resize: 'box' is unknown"):
        decode(png(np.zeros((8, 8), np.uint8)), "x", size=4, channels=1, resize="box")


def test_drawings_become_what_the_data_set_makes_of_them():
    ink = np.random.default_rng(0).random((5, 105, 105)) < 0.1
    ink[:, :20] = ink[:, -20:] = ink[:, :, :20] = ink[:, :, -20:] = False
    rows = torch.from_numpy(omniglot.reduce(ink, 28))
    training = format_of(drawings())
    files = [decode(png(~each), "x", size=28, channels=3, resize="area") for each in ink]
    unit = to_unit(torch.from_numpy(np.stack(files)))
    made = training.apply(unit, training.to_invert(unit))
    torch.testing.assert_close(made, to_unit(rows), rtol=0, atol=1e-6)


def test_published_runs_become_rows_of_the_data_set(shared_data):
    """Lake's 20 runs are black on white; their drawings are among those of the data set."""
    splits = datasets.load("omniglot", shared_data, download=False).splits
    known = {bytes(row) for part in splits.values() for row in part.inputs.numpy()}
    training = format_of(splits["train"].inputs)
    assert (training.background, training.channels, training.size) == ("dark", 1, 28)
    with zipfile.ZipFile(shared_data / "lake_runs" / "all_runs.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        files = [decode(archive.read(n), n, size=28, channels=3, resize="area") for n in names]
    assert len(files) == 800
    unit = to_unit(torch.from_numpy(np.stack(files)))
    inverted = training.to_invert(unit)
    assert inverted.all()
    made = (training.apply(unit, inverted) * 255).round().to(torch.uint8).numpy()
    assert sum(bytes(row) in known for row in made) == 800
    assert training.differences(unit) == ""


@pytest.mark.parametrize(
    ("pictures", "background"),
    [
        (drawings(), "dark"),
        (255 - drawings(), "light"),
        (drawings().expand(-1, 3, -1, -1), "dark"),
        (torch.cat([drawings(), 255 - drawings(4, seed=1)]), "varied"),
        (photographs(), "varied"),
        (torch.zeros(20, 1, 28, 28, dtype=torch.uint8), "varied"),  # blank
        (160 + drawings() // 3, "dark"),  # little contrast, and no black
    ],
)
def test_the_background_is_seen_from_the_pictures(pictures, background):
    assert format_of(pictures).background == background


def test_pictures_of_the_opposite_background_are_inverted_and_no_others():
    training = format_of(drawings(seed=2))
    light_paper = in_colour(200 - drawings() // 3)
    assert training.to_invert(light_paper).all()
    assert not training.to_invert(in_colour(drawings())).any()
    opposite = format_of(255 - drawings(seed=2))
    assert opposite.to_invert(in_colour(drawings())).all()
    mixed = torch.cat([light_paper[:5], in_colour(drawings())[:5]])
    assert training.to_invert(mixed).tolist() == [True] * 5 + [False] * 5
    for pictures in (light_paper, in_colour(drawings())):
        assert not format_of(photographs()).to_invert(pictures).any()


def test_pictures_that_do_not_tell_follow_the_others():
    training = format_of(drawings(seed=2))
    unclear = to_unit(photographs(3))
    unclear[0] = 0.5  # blank
    light = in_colour(255 - drawings())[:4]
    assert training.to_invert(torch.cat([light, unclear])).all()
    assert not training.to_invert(torch.cat([1 - light, unclear])).any()
    assert training.to_invert(unclear, otherwise=True).all()
    assert not training.to_invert(unclear, otherwise=False).any()
    assert not training.to_invert(unclear).any()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)], ids=["unit", "signed", "bytes"]
)
def test_values_are_those_of_training(low, high):
    unit = to_unit(drawings())
    training = format_of(low + (high - low) * unit)
    assert (training.low, training.high, training.background) == (low, high, "dark")
    made = training.apply(in_colour(drawings()), torch.zeros(40, dtype=torch.bool))
    torch.testing.assert_close(made, low + (high - low) * unit)
    assert training.typical == format_of(drawings()).typical


@pytest.mark.parametrize(
    "inputs",
    [
        torch.randn(20, 1, 8, 8) * 2,  # standardised: what is black?
        torch.rand(20, 1, 8, 9),
        torch.rand(20, 2, 8, 8),
        torch.rand(20, 64),
        {"pixels": torch.rand(20, 1, 8, 8)},
    ],
)
def test_inputs_that_no_file_can_be_made_into_have_no_format(inputs):
    assert PictureFormat.of(inputs, "bicubic") is None


def test_colour_becomes_grey_as_in_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    unit = to_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    reference = np.asarray(Image.fromarray(pixels).convert("L"), np.float32) / 255
    np.testing.assert_allclose(brightness(unit)[0], reference, atol=0.51 / 255)


def test_measures_of_known_pictures():
    half = torch.zeros(1, 3, 28, 28)
    half[:, 0, :, 14:] = 1  # the right half is red
    found = looks(half)
    assert float(found.colour) == pytest.approx(0.5)
    assert float(found.shades) == pytest.approx(1), "two shades, equally many"
    assert float(found.contrast) == pytest.approx(0.299)
    assert float(found.cover) == pytest.approx(0.5)
    ramp = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    assert float(looks(ramp).shades) > 3.9
    blank = looks(torch.full((1, 1, 28, 28), 0.3))
    assert torch.stack(list(blank)).isfinite().all()


SAME = {
    "the same": drawings(seed=3),
    "dark on light": 255 - drawings(seed=3),
    "a thicker pen": drawings(seed=3, pen=3),
    "a blue pen on paper": torch.cat(
        [255 - drawings(seed=3)] * 2 + [255 - drawings(seed=3) // 3], 1
    ),
}
OTHER = {
    "photographs": photographs(),
    "grey photographs": photographs()[:, :1],
    "a few photographs": photographs(3),
    "faint": drawings(seed=3) // 6,
    "tiny": torch.nn.functional.pad(drawings(side=8, pen=1), (10, 10, 10, 10)),
    "blank": torch.full((9, 1, 28, 28), 255, dtype=torch.uint8),
}


@pytest.mark.parametrize("pictures", SAME.values(), ids=SAME)
def test_pictures_of_the_same_kind_do_not_differ(pictures):
    training = format_of(torch.cat([drawings(seed=7), drawings(seed=8, pen=3)]))
    assert training.differences(in_colour(pictures)) == ""


@pytest.mark.parametrize("pictures", OTHER.values(), ids=OTHER)
def test_pictures_of_another_kind_differ(pictures):
    training = format_of(torch.cat([drawings(seed=7), drawings(seed=8, pen=3)]))
    assert "in training" in training.differences(in_colour(pictures))


def test_drawings_are_another_kind_than_photographs():
    training = format_of(photographs())
    assert training.differences(to_unit(photographs(seed=1))) == ""
    found = training.differences(in_colour(drawings()))
    assert "shades" in found
    assert "colour" in found


def test_a_format_is_kept_as_json_and_damaged_ones_are_refused():
    training = format_of(drawings())
    values = json.loads(json.dumps(training.to_json()))
    assert PictureFormat.from_json(values) == training
    damaged = [
        {**values, "size": 10**9}, {**values, "size": 0}, {**values, "size": "x"},
        {**values, "channels": 4}, {**values, "low": math.nan}, {**values, "high": math.inf},
        {**values, "low": 1.0}, {**values, "resize": "box"}, {**values, "background": "red"},
        {**values, "typical": {"colour": [0]}}, {**values, "typical": {"other": [0, 1]}},
        {**values, "typical": 3}, {k: v for k, v in values.items() if k != "size"}, [], 3, "x",
    ]  # fmt: skip
    for each in damaged:
        with pytest.raises(ValueError, match=r"pictures: .*Save the learner"):
            PictureFormat.from_json(each)
    assert dataclasses.replace(training, typical={}).differences(in_colour(drawings())) == ""
