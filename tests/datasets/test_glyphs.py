import unicodedata

import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets import glyph_rendering as rendering
from quickstudy.datasets import glyphs


@pytest.fixture(scope="module")
def built():
    torch.set_num_threads(1)
    return glyphs.build()


def test_another_run_with_other_threads_gives_the_same_bytes(monkeypatch):
    few = dict(list(glyphs.candidates().items())[::20])
    monkeypatch.setattr(glyphs, "candidates", lambda: few)
    runs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            runs.append(glyphs.build())
    finally:
        torch.set_num_threads(1)
    for name, part in runs[0].items():
        assert len(part) > 5
        assert runs[1][name].names == part.names
        assert torch.equal(runs[1][name].inputs, part.inputs)


def test_load_returns_and_keeps_what_was_built(built, tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "build", lambda: built)
    first = datasets.load("glyphs", tmp_path)
    monkeypatch.setattr(glyphs, "build", lambda: pytest.fail("rendered twice"))
    second = datasets.load("glyphs", tmp_path)
    for dataset in (first, second):
        assert dataset.name == "glyphs"
        for name, part in dataset.splits.items():
            assert torch.equal(part.inputs, built[name].inputs)
            codes = [ord(unicodedata.lookup(n)) for n in part.names]
            assert part.superclasses == tuple(map(glyphs.script, codes))
    # another version of FreeType draws a little differently, and a few classes come or go
    found = tuple(len(part) for part in first.splits.values())
    assert found == pytest.approx(first.card.classes, rel=0.02)


def test_numbers_of_classes_and_rows(built):
    assert len(built["train"]) >= 1400
    assert len(built["val"]) >= 150
    assert len(built["test"]) >= 400
    for part in built.values():
        assert part.inputs.dtype == torch.uint8
        assert part.inputs.shape[1:] == (1, 28, 28)
        assert set(part.counts.tolist()) == {20}


def test_scripts_are_not_shared_between_splits(built):
    scripts = {
        name: {glyphs.script(ord(unicodedata.lookup(n))) for n in part.names}
        for name, part in built.items()
    }
    assert None not in set().union(*scripts.values())
    assert all(glyphs.SCRIPTS[s] == name for name, found in scripts.items() for s in found)
    assert {"LATIN", "GREEK", "CYRILLIC"} <= scripts["train"]
    assert {"CANADIAN SYLLABICS", "HEBREW"} <= scripts["test"]


def test_similar_characters_are_one_class(built):
    names = {n for part in built.values() for n in part.names}
    assert "LATIN CAPITAL LETTER A" in names
    assert "GREEK CAPITAL LETTER ALPHA" not in names
    assert "CYRILLIC CAPITAL LETTER A" not in names
    assert "LATIN CAPITAL LETTER O" in names  # and the small one is the same shape
    for twin in ("LATIN SMALL LETTER O", "CYRILLIC SMALL LETTER O", "ARMENIAN SMALL LETTER OH"):
        assert twin not in names
    assert {"LATIN CAPITAL LETTER B", "LATIN SMALL LETTER B", "LATIN SMALL LETTER G"} <= names


def test_every_image_is_a_glyph(built):
    for part in built.values():
        images = part.inputs.float() / 255
        ink = images.mean(dim=(1, 2, 3))
        assert ink.min() > 0.01
        assert ink.max() < 0.6  # a few very bold ones: paper, not ink, is the rule
        border = torch.cat([images[..., 0, :], images[..., -1, :]], -1).mean()
        assert border < 0.01  # the jitter does not push glyphs out of the picture
        pairs = images.view(len(part), 20, -1)
        assert (pairs[:, 0] - pairs[:, 1]).abs().mean(-1).min() > 0.003  # no sample stands twice


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("A", "LATIN"),
        ("ж", "CYRILLIC"),
        ("7", "DIGIT"),
        ("٣", "ARABIC-INDIC DIGIT"),
        ("ᐁ", "CANADIAN SYLLABICS"),
        ("𝔸", None),  # Latin in another dress
        ("µ", None),  # Greek mu in another dress
        ("+", None),
        ("́", None),  # a combining mark
        ("ʰ", None),  # a modifier letter
    ],
)
def test_script_of_a_character(character, expected):
    assert glyphs.script(ord(character)) == expected


def test_distinct_keeps_the_first_of_similar_characters():
    similar = torch.eye(6)
    for i, j, value in [(0, 1, 0.98), (1, 2, 0.98), (0, 3, 0.90), (2, 3, 0.8), (2, 4, 0.8)]:
        similar[i, j] = similar[j, i] = value
    codes = [ord(c) for c in "abcdef"]
    # b looks like a; c looks only like b, which is gone; d is in another split and rather like a
    splits = ["train", "train", "train", "test", "test", "val"]
    assert glyphs.distinct(similar, codes, splits) == [0, 2, 4, 5]
    assert glyphs.distinct(similar, codes, ["train"] * 6) == [0, 2, 3, 4, 5]


def test_distinct_merges_the_cases_of_a_letter_at_a_lower_similarity():
    similar = torch.eye(4)
    for i, j, value in [(0, 1, 0.85), (0, 2, 0.85), (2, 3, 0.75)]:
        similar[i, j] = similar[j, i] = value
    assert glyphs.distinct(similar, [ord(c) for c in "OoAa"], ["train"] * 4) == [0, 2, 3]


def blank(n):
    return torch.zeros(n, rendering.RASTER, rendering.RASTER, dtype=torch.uint8)


def test_similarity_in_closed_form():
    rasters = blank(5)
    rasters[0, :20, :28] = 252  # left half of a bar
    rasters[1, :20, :28] = 252  # the same
    rasters[2, :20, 14:42] = 252  # half of it overlaps
    rasters[3, 30:50, :28] = 252  # nowhere
    rasters[4] = 252
    character, face = torch.arange(5), torch.tensor([0, 0, 0, 0, 4])
    similar = rendering.similarity(rendering.Glyphs(rasters, character, face))
    expected = torch.tensor([1, 1, 0.5, 0, -1])  # the last has no face in common with the first
    assert torch.equal(similar[0], expected)
    assert torch.equal(similar, similar.T)


def test_without_jitter_an_image_is_the_raster_at_half_its_size():
    generator = torch.Generator().manual_seed(0)
    rasters = torch.zeros(3, 56, 56)
    rasters[:, 8:48, 8:48] = torch.rand(3, 40, 40, generator=generator).mul(255).round()
    still = rendering.Jitter(0, 0, 0, 0, 0, 0)
    faces = [torch.tensor([0, 1]), torch.tensor([2])]
    images = rendering.samples(rasters.to(torch.uint8), 3, faces, generator, still)
    means = rasters.view(3, 28, 2, 28, 2).mean(dim=(2, 4))
    chosen = torch.tensor([0, 1, 0, 2, 2, 2])  # the faces of a class in turn
    assert (images[:, 0] - means[chosen]).abs().max() <= 0.502  # rounded to whole levels


def test_a_shift_moves_the_ink_by_that_much():
    rasters = blank(1)
    rasters[0, 20:36, 20:36] = 255
    shift = rendering.Jitter(0, 0, 0, 0.2, 0, 0)
    images = rendering.samples(
        rasters, 400, [torch.tensor([0])], torch.Generator().manual_seed(0), shift
    ).double()
    centre = torch.arange(28, dtype=torch.float64) - 13.5
    moved = (images.sum(dim=(1, 2)) * centre).sum(-1) / images.sum(dim=(1, 2, 3))
    assert moved.abs().max() <= 0.2 * 14 + 0.02
    assert moved.std() == pytest.approx(0.2 * 14 / 3**0.5, rel=0.1)  # evenly in the bound


def test_strokes_grow_and_shrink_by_the_bound():
    rasters = blank(1)
    rasters[0, :, 20:36] = 255  # a bar 16 raster pixels wide, that is 8 pixels
    stroke = rendering.Jitter(0, 0, 0, 0, 0, 0.8)
    images = rendering.samples(
        rasters, 400, [torch.tensor([0])], torch.Generator().manual_seed(0), stroke
    )
    widths = images[:, 0, 14].double().sum(-1) / 255 * 2
    assert widths.max() == pytest.approx(16 + 2 * 0.8, abs=0.05)
    assert widths.min() == pytest.approx(16 - 2 * 0.4, abs=0.05)
