import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets
from quickstudy.datasets import cache, omniglot
from quickstudy.datasets.archives import ArchiveError


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """A cache of the decoded drawings that the tests of this file share."""
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture
def root(shared_data, decoded, monkeypatch):
    """The real data, never written to."""
    monkeypatch.setattr(cache, "user_cache", lambda: decoded)
    monkeypatch.setattr(omniglot, "writable_folder", lambda root, name: pytest.fail("download"))
    before = sorted((shared_data / "omniglot").iterdir())
    yield shared_data
    assert sorted((shared_data / "omniglot").iterdir()) == before


def test_vinyals_split_is_the_published_one(root):
    dataset = datasets.load("omniglot", root, rotations=True)
    assert tuple(len(c) for c in dataset.splits.values()) == (4112, 688, 1692)
    for name, part in dataset.splits.items():
        listed = (root / "omniglot" / "splits_vinyals" / f"{name}.txt").read_text().split()
        assert sorted(part.names) == sorted(listed)
        assert set(part.counts.tolist()) == {20}
        assert part.inputs.shape[1:] == (1, 28, 28)


def test_rows_without_rotations(root):
    dataset = datasets.load("omniglot", root)
    assert tuple(len(c) for c in dataset.splits.values()) == (1028, 172, 423)
    assert tuple(len(c) for c in dataset.splits.values()) == dataset.card.classes
    assert dataset.train.inputs.dtype == torch.uint8


def test_images_are_the_share_of_ink(root):
    """Against an independent reduction of one drawing, pixel by pixel, in fractions of area."""
    dataset = datasets.load("omniglot", root)
    name = dataset.test.names[7]
    with zipfile.ZipFile(root / "omniglot" / "images_evaluation.zip") as archive:
        member = sorted(n for n in archive.namelist() if f"/{name}/" in n)[3]
        paper = np.asarray(Image.open(io.BytesIO(archive.read(member))).convert("L")) / 255
    fine = np.kron(1 - paper, np.ones((4, 4)))  # 420 x 420: 15 to a side of each of 28 pixels
    expected = fine.reshape(28, 15, 28, 15).mean(axis=(1, 3)) * 255
    found = dataset.test.rows(7)[3, 0].numpy().astype(float)
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    assert found.max() > 100  # ink is white
    assert np.median(found) == 0


def test_lake_split_keeps_the_evaluation_alphabets_for_testing(root):
    background, evaluation = (
        characters_in(root / "omniglot" / f"{p.name}.zip") for p in omniglot.PARTS
    )
    members = omniglot.lake_members(background, evaluation)
    assert list(members) == ["train", "val", "test"]
    alphabets = [{n.split("/")[0] for n in names} for names in members.values()]
    assert [len(a) for a in alphabets] == [25, 5, 20]
    assert not alphabets[0] & alphabets[1]
    assert sorted(members["train"] + members["val"]) == background
    assert members["test"] == evaluation
    assert (len(background), len(evaluation)) == (964, 659)
    assert {"Angelic", "ULOG"} <= alphabets[2]


def characters_in(archive):
    """The names ``alphabet/characterNN`` of a zip of drawings, sorted."""
    with zipfile.ZipFile(archive) as opened:
        return sorted({"/".join(n.split("/")[1:3]) for n in opened.namelist() if "character" in n})


def test_image_sizes(small):
    dataset = datasets.load("omniglot", small, split="lake", size=35, download=False)
    assert dataset.val.inputs.shape[1:] == (1, 35, 35)
    ninths = {round(255 * k / 9) for k in range(10)}  # each pixel stands for 3 x 3
    found = set(dataset.val.inputs.unique().tolist())
    assert found <= ninths
    assert len(found) > 3
    with pytest.raises(ValueError, match=r"must be 1 to 105.*found 200"):
        datasets.load("omniglot", small, size=200)


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match="Choose vinyals or lake"):
        datasets.load("omniglot", root, split="vinyal")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two made parts of two characters each; the expectations are set to match them."""
    folder = tmp_path / "root" / "omniglot"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    parts = []
    for seed, part in enumerate(omniglot.PARTS):
        rng = np.random.default_rng(seed)
        drawings = {
            f"Made{seed}/character{c:02d}": rng.random((20, 105, 105)) < 0.1 for c in (1, 2)
        }
        for name, images in drawings.items():
            (folder / part.name / name).mkdir(parents=True)
            for i, ink in enumerate(images):
                Image.fromarray(~ink).save(folder / part.name / name / f"{i:02d}.png")
        parts.append(omniglot.Part(part.name, part.url, part.md5, 2, omniglot.digest(drawings)))
    monkeypatch.setattr(omniglot, "PARTS", tuple(parts))
    monkeypatch.setattr(
        omniglot,
        "lake_members",
        lambda b, e: {"train": b[:1], "val": b[1:], "test": e},
    )
    return tmp_path / "root"


def load_small(root):
    return datasets.load("omniglot", root, split="lake", download=False)


def test_an_unpacked_folder_and_a_zip_of_it_are_the_same(small):
    unpacked = load_small(small)
    folder = small / "omniglot"
    for part in omniglot.PARTS:
        shutil.make_archive(str(folder / part.name), "zip", folder, part.name)
        shutil.rmtree(folder / part.name)
    for decoded in folder.glob("decoded-*"):
        decoded.unlink()
    zipped = load_small(small)
    assert torch.equal(zipped.test.inputs, unpacked.test.inputs)
    assert zipped.test.names == unpacked.test.names == ("Made1/character01", "Made1/character02")
    assert zipped.test.superclasses == ("Made1", "Made1")


def test_a_missing_part_is_named_with_the_remedy(small):
    shutil.rmtree(small / "omniglot" / "images_evaluation")
    with pytest.raises(FileNotFoundError, match=r"images_evaluation.*https://"):
        load_small(small)


def test_a_missing_drawing_is_refused(small):
    (small / "omniglot" / "images_background" / "Made0" / "character02" / "03.png").unlink()
    with pytest.raises(ArchiveError, match=r"images_background: must hold 2.*Made0/character02"):
        load_small(small)


def test_one_altered_pixel_is_refused(small):
    path = small / "omniglot" / "images_background" / "Made0" / "character02" / "03.png"
    ink = np.asarray(Image.open(path)).copy()
    ink[50, 50] = ~ink[50, 50]
    Image.fromarray(ink).save(path)
    with pytest.raises(ArchiveError, match="images_background: the drawings differ"):
        load_small(small)


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n", b""])
def test_a_broken_drawing_is_named(small, content):
    path = small / "omniglot" / "images_evaluation" / "Made1" / "character01" / "00.png"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"character01/00\.png: not a drawing"):
        load_small(small)


def test_a_drawing_of_another_size_is_named(small):
    path = small / "omniglot" / "images_evaluation" / "Made1" / "character01" / "00.png"
    Image.new("1", (28, 28)).save(path)
    with pytest.raises(ArchiveError, match="28 x 28, not 105 x 105"):
        load_small(small)
