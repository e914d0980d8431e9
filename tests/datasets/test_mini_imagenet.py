import csv
import gzip
import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets
from quickstudy.datasets import mini_imagenet
from quickstudy.datasets.images import ImageError
from quickstudy.datasets.mini_imagenet import synset_of
from quickstudy.datasets.sources import published_split

LISTS = published_split("mini_imagenet")
SYNSETS = [synset for split in ("train", "val", "test") for synset in LISTS[split]]
FEW = 2


def picture(synset, number):
    """A plain picture whose colour tells class and number."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 16), (SYNSETS.index(synset), number, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two pictures of each class instead of 600; the loader is patched to expect two."""
    monkeypatch.setattr(mini_imagenet, "PER_CLASS", FEW)
    folder = tmp_path / "mini_imagenet" / "images"
    folder.mkdir(parents=True)
    for synset in SYNSETS:
        for number in range(FEW):
            (folder / f"{synset}{number + 1:08d}.png").write_bytes(picture(synset, number))
    return tmp_path


def load(root, **options):
    return datasets.load("mini_imagenet", root, size=8, **options)


def check(dataset):
    assert tuple(len(c) for c in dataset.splits.values()) == (64, 16, 20) == dataset.card.classes
    for split, part in dataset.splits.items():
        assert list(part.names) == LISTS[split]
        assert part.inputs.shape == (len(part) * FEW, 3, 8, 8)
        for i, synset in enumerate(part.names):
            rows = part.rows(i)
            assert (rows[:, 0] == SYNSETS.index(synset)).all()
            assert rows[:, 1, 0, 0].tolist() == list(range(FEW))


def test_file_names_as_in_the_published_lists(root):
    check(load(root))


def test_one_folder_per_synset(root):
    images = root / "mini_imagenet" / "images"
    for path in list(images.iterdir()):
        target = images / "train" / path.name[:9]
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / f"photo {path.name[9:]}")
    check(load(root))


def test_synset_folders_directly_in_the_folder(root):
    for path in list((root / "mini_imagenet" / "images").iterdir()):
        target = root / "mini_imagenet" / path.name[:9]
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    (root / "mini_imagenet" / "images").rmdir()
    check(load(root))


def test_a_zip_in_any_order(root):
    images = root / "mini_imagenet" / "images"
    with zipfile.ZipFile(root / "mini_imagenet" / "images.zip", "w") as archive:
        for path in sorted(images.iterdir(), reverse=True):
            archive.write(path, f"images/{path.name}")
        archive.writestr("images/train.csv", "filename,label\n")
    shutil.rmtree(images)
    check(load(root))


def test_too_few_or_too_many_images_are_refused(root):
    images = root / "mini_imagenet" / "images"
    extra = images / f"{SYNSETS[3]}99999999.png"
    extra.write_bytes(picture(SYNSETS[3], 9))
    with pytest.raises(ValueError, match=f"must hold 2 images; 1 do not: {SYNSETS[3]} 3"):
        load(root)
    extra.unlink()
    next(images.glob(f"{SYNSETS[70]}*")).unlink()
    with pytest.raises(ValueError, match=f"1 do not: {SYNSETS[70]} 1"):
        load(root)


def test_a_bad_image_is_left_out_or_refused(root):
    bad = next((root / "mini_imagenet" / "images").glob(f"{SYNSETS[0]}*1.png"))
    bad.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=bad.name):
        load(root, strict=True)
    with pytest.warns(UserWarning, match=f"left out 1 image: .*{bad.name}"):
        dataset = load(root)
    part = dataset.splits["train"]
    place = part.names.index(SYNSETS[0])
    assert part.counts.tolist() == [FEW - (i == place) for i in range(64)]
    assert part.rows(place)[:, 1, 0, 0].tolist() == [1]


def test_strict_decodes_again_after_images_were_left_out(root):
    bad = next((root / "mini_imagenet" / "images").glob(f"{SYNSETS[0]}*1.png"))
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    for _ in range(2):  # decoded first, then read from disk: both times there is a warning
        with pytest.warns(UserWarning, match=f"left out 1 image: .*{bad.name}"):
            load(root)
    with pytest.raises(ImageError, match=bad.name):
        load(root, strict=True)
    bad.write_bytes(good)
    check(load(root, strict=True))
    check(load(root))


def test_pickles_are_refused(tmp_path):
    (tmp_path / "mini_imagenet").mkdir()
    (tmp_path / "mini_imagenet" / "mini-imagenet-cache-train.pkl").write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"train\.pkl: a Python pickle can run code"):
        load(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="forbid redistribution"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images/n0153282900000005.jpg", "n01532829"),
        ("train/n01532829/n01532829_17.JPEG", "n01532829"),
        ("n01532829/17.jpg", "n01532829"),
        ("n01532829/list.csv", None),
        ("n01532829/._17.jpg", None),
        ("n99999999/17.jpg", None),
    ],
)
def test_the_class_of_a_path(name, expected):
    assert synset_of(name, set(SYNSETS)) == expected


def test_split_is_the_published_one(shared_data):
    for split in ("train", "val", "test"):
        path = shared_data / "splits" / "miniimagenet_ravi" / f"{split}.csv.gz"
        with gzip.open(path, "rt") as stream:
            listed = list(csv.DictReader(stream))
        assert {row["label"] for row in listed} == set(LISTS[split])
        assert all(synset_of(row["filename"], set(SYNSETS)) == row["label"] for row in listed)
        assert len(listed) == 600 * len(LISTS[split])


def test_rows_are_uint8(root):
    assert load(root).train.inputs.dtype == torch.uint8
    assert np.prod(load(root).train.inputs.shape[1:]) == 192
