import hashlib
import tarfile

import numpy as np
import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets import cifar_fs
from quickstudy.datasets.archives import ArchiveError
from quickstudy.datasets.sources import published_split

LISTS = published_split("cifar_fs")
NAMES = sorted(name for split in ("train", "val", "test") for name in LISTS[split])


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A small stand-in in the format of the original: 3 + 1 images of each class."""
    folder = tmp_path / "cifar_fs" / "cifar-100-binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {}
    for name, per_class in (("train.bin", 3), ("test.bin", 1)):
        records = rng.integers(0, 256, (100 * per_class, cifar_fs.RECORD), dtype=np.uint8)
        records[:, 1] = rng.permutation(np.repeat(np.arange(100), per_class))
        (folder / name).write_bytes(records.tobytes())
        sums[name] = hashlib.sha256(records.tobytes()).hexdigest()
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n")
    monkeypatch.setattr(cifar_fs, "RECORDS_SHA256", sums)
    return folder


def load(root):
    return datasets.load("cifar_fs", root, download=False)


def test_every_image_is_in_its_class(unpacked, tmp_path):
    dataset = load(tmp_path)
    assert tuple(len(c) for c in dataset.splits.values()) == (64, 16, 20) == dataset.card.classes
    for split, part in dataset.splits.items():
        assert list(part.names) == LISTS[split]
        assert set(part.counts.tolist()) == {4}
    # by the layout the authors publish: <coarse><fine><1024 red><1024 green><1024 blue>
    raw = (unpacked / "train.bin").read_bytes() + (unpacked / "test.bin").read_bytes()
    name = dataset.val.names[5]
    expected = []
    for start in range(0, len(raw), 3074):
        if NAMES[raw[start + 1]] == name:
            pixels = raw[start + 2 : start + 3074]
            expected.append(
                [[list(pixels[c * 1024 + y * 32 :][:32]) for y in range(32)] for c in range(3)]
            )
    assert dataset.val.rows(5).tolist() == expected


def test_the_archive_gives_the_same(unpacked, tmp_path):
    from_folder = load(tmp_path)
    (tmp_path / "b" / "cifar_fs").mkdir(parents=True)
    with tarfile.open(tmp_path / "b" / "cifar_fs" / "cifar-100-binary.tar.gz", "w:gz") as archive:
        archive.add(unpacked, "cifar-100-binary")
    from_archive = load(tmp_path / "b")
    assert torch.equal(from_archive.test.inputs, from_folder.test.inputs)


def test_altered_records_are_refused(unpacked, tmp_path):
    data = bytearray((unpacked / "test.bin").read_bytes())
    data[1000] ^= 1
    (unpacked / "test.bin").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"test\.bin has the wrong checksum"):
        load(tmp_path)


def test_missing_records_are_named(unpacked, tmp_path):
    (unpacked / "train.bin").unlink()
    with pytest.raises(ArchiveError, match=r"train\.bin is missing"):
        load(tmp_path)


def test_other_class_names_are_refused(unpacked, tmp_path):
    (unpacked / "fine_label_names.txt").write_text("\n".join([*NAMES[:-1], "dragon"]))
    with pytest.raises(ArchiveError, match="must hold the 100 names"):
        load(tmp_path)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "cifar_fs").mkdir()
    (tmp_path / "cifar_fs" / "cifar-100-python.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pickles, which can run code\. Get the binary version"):
        load(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-100-binary\.tar\.gz is not in"):
        load(tmp_path)


def test_split_is_the_published_one(shared_data):
    import json

    for split in ("train", "val", "test"):
        listed = json.loads((shared_data / "splits" / "cifar-fs" / f"{split}.json").read_text())
        assert sorted(LISTS[split]) == sorted(fine for _, fine in listed)
