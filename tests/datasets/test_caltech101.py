import io
import shutil
import tarfile
import zipfile

import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets import cache, caltech101
from quickstudy.datasets.archives import ArchiveError

SIZE = 16


@pytest.fixture(scope="module")
def unpacked(shared_data, tmp_path_factory):
    """The photographs as a folder, once."""
    root = tmp_path_factory.mktemp("unpacked")
    for split in ("train", "val", "test"):
        with zipfile.ZipFile(shared_data / "caltech101" / f"caltech101_30_{split}.zip") as archive:
            archive.extractall(root / "caltech101")
    return root


def load(root):
    return datasets.load("caltech101", root, size=SIZE, download=False)


@pytest.fixture(scope="module")
def dataset(unpacked):
    return load(unpacked)


def test_shapes_and_names(dataset):
    assert tuple(len(c) for c in dataset.splits.values()) == (64, 15, 20) == dataset.card.classes
    for part in dataset.splits.values():
        assert set(part.counts.tolist()) == {30}
        assert part.inputs.shape[1:] == (3, SIZE, SIZE)
        assert part.inputs.dtype == torch.uint8
    assert "Leopards" in dataset.train.names
    assert "beaver" in dataset.val.names
    assert "barrel" in dataset.test.names


def test_split_equals_the_shared_data(dataset, shared_data):
    import json

    listed = json.loads((shared_data / "caltech101" / "split.json").read_text())["split"]
    assert {s: list(p.names) for s, p in dataset.splits.items()} == listed


def test_zips_per_split_give_the_same(dataset, shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path)
    assert torch.equal(load(shared_data).train.inputs, dataset.train.inputs)


def test_the_tar_in_the_published_zip_is_read(dataset, unpacked, tmp_path):
    """Packed as published: a zip of a tar, with other classes and more photographs in it."""
    folder = tmp_path / "caltech101"
    folder.mkdir()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz", compresslevel=0) as archive:
        archive.add(unpacked / "caltech101" / "101_ObjectCategories", "101_ObjectCategories")
        for extra in ("Faces/image_0001.jpg", "ant/image_0031.jpg", "BACKGROUND_Google/tmp"):
            archive.addfile(tarfile.TarInfo(f"101_ObjectCategories/{extra}"))
    with zipfile.ZipFile(folder / "caltech-101.zip", "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", tar.getvalue())
        archive.writestr("caltech-101/Annotations.tar", b"")
        archive.writestr("__MACOSX/caltech-101/._Annotations.tar", b"")
    assert torch.equal(load(tmp_path).test.inputs, dataset.test.inputs)


def test_a_missing_or_altered_photograph_is_refused(unpacked, tmp_path):
    shutil.copytree(unpacked / "caltech101", tmp_path / "caltech101")
    for decoded in (tmp_path / "caltech101").glob("decoded-*"):
        decoded.unlink()
    photo = tmp_path / "caltech101" / "101_ObjectCategories" / "ant" / "image_0007.jpg"
    data = photo.read_bytes()
    photo.unlink()
    with pytest.raises(ArchiveError, match="found 2969 of 2970"):
        load(tmp_path)
    photo.write_bytes(data[:-50] + bytes(50))
    with pytest.raises(ArchiveError, match="some are altered"):
        load(tmp_path)


def test_a_truncated_archive_is_named(shared_data, tmp_path):
    folder = tmp_path / "caltech101"
    folder.mkdir()
    for split in ("train", "val", "test"):
        name = f"caltech101_30_{split}.zip"
        (folder / name).write_bytes((shared_data / "caltech101" / name).read_bytes()[:100_000])
    with pytest.raises(ArchiveError, match=r"caltech101_30_train\.zip: damaged or incomplete"):
        load(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"caltech-101\.zip is not in"):
        load(tmp_path)


def test_a_zip_that_holds_its_tar_twice_is_refused(tmp_path):
    """Each may unpack to gigabytes."""
    with zipfile.ZipFile(tmp_path / "caltech-101.zip", "w") as archive:
        for folder in "ab":
            stream = io.BytesIO()
            tarfile.open(fileobj=stream, mode="w:gz").close()
            archive.writestr(f"{folder}/{caltech101.INNER}", stream.getvalue())
    with pytest.raises(ArchiveError, match=r"caltech-101\.zip: refused: .* more than once"):
        caltech101.read([tmp_path / "caltech-101.zip"], {"a"})
