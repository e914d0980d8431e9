import os

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets
from quickstudy.datasets.folders import read_classes
from quickstudy.datasets.images import ImageError


def fill(folder, shade, count=3, size=(12, 9)):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (shade, i, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def pets(tmp_path):
    for i in range(8):
        fill(tmp_path / "pets" / f"class {i}", 10 * i, count=2 + i)
    return tmp_path / "pets"


def test_one_class_per_folder_sorted_by_name(pets):
    classes = read_classes(pets, size=6)
    assert classes.names == tuple(f"class {i}" for i in range(8))
    assert classes.counts.tolist() == list(range(2, 10))
    assert classes.inputs.shape == (sum(range(2, 10)), 3, 6, 6)
    for i in range(8):
        rows = classes.rows(i)
        assert (rows[:, 0] == 10 * i).all()
        assert rows[:, 1, 0, 0].tolist() == list(range(2 + i))  # files in order of name


def test_images_in_nested_folders_belong_to_the_class(pets):
    fill(pets / "class 0" / "more" / "still more", 0, count=4)
    assert read_classes(pets, size=6).counts[0] == 6


def test_classes_are_split_by_seed(pets):
    first, same = datasets.folder(pets, size=6), datasets.folder(pets, size=6)
    assert first.test.names == same.test.names
    assert any(datasets.folder(pets, size=6, seed=s).test.names != first.test.names for s in (1, 2))
    names = [n for part in first.splits.values() for n in part.names]
    assert sorted(names) == [f"class {i}" for i in range(8)]


def test_split_folders_are_the_splits(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for i in range(count):
            fill(tmp_path / split / f"{split} {i}", i)
    dataset = datasets.load("folder", tmp_path, size=6)
    assert [len(c) for c in dataset.splits.values()] == [3, 1, 2]
    fill(tmp_path / "test" / "train 0", 0)
    with pytest.raises(ValueError, match=r"train and test must not share classes.*train 0"):
        datasets.load("folder", tmp_path, size=6)


def test_unreadable_images_are_named_counted_and_left_out(pets):
    (pets / "class 2" / "notes.txt").write_text("a text file among images")
    photo = pets / "class 3" / "cut.jpg"
    Image.effect_noise((90, 90), 50).save(photo)
    photo.write_bytes(photo.read_bytes()[:-300])
    Image.new("L", (1, 1)).save(pets / "class 3" / "dot.png")
    with pytest.warns(UserWarning, match=r"left out 3 of 47 files") as caught:
        classes = read_classes(pets, size=6)
    assert classes.counts.tolist() == list(range(2, 10))
    assert all(name in str(caught[0].message) for name in ("notes.txt", "cut.jpg", "dot.png"))
    with pytest.raises(ImageError, match=r"notes\.txt: not an image"):
        datasets.load("folder", pets, size=6, strict=True)


@pytest.mark.timeout(20)
def test_a_pipe_among_images_is_left_out(pets):
    os.mkfifo(pets / "class 2" / "pipe.png")  # to open it would wait for a writer for ever
    with pytest.warns(UserWarning, match=r"left out 1 of 45 files: .*pipe\.png: .*pipe"):
        assert read_classes(pets, size=6).counts.tolist() == list(range(2, 10))
    with pytest.raises(ImageError, match=r"pipe\.png: .* not a regular file"):
        read_classes(pets, size=6, strict=True)


def test_the_warning_lists_few_files(pets):
    for i in range(40):
        (pets / "class 0" / f"{i}.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"left out 40 of 84 files.*and 35 more"):
        read_classes(pets, size=6)


def test_hidden_files_are_ignored(pets):
    (pets / "class 2" / ".DS_Store").write_bytes(b"x")
    (pets / "class 2" / "Thumbs.db").write_bytes(b"x")
    (pets / ".git").mkdir()
    assert len(read_classes(pets, size=6, strict=True)) == 8


def test_a_class_without_a_readable_image_is_refused(pets):
    (pets / "empty").mkdir()
    (pets / "class 0" / "x.jpg").write_text("x")
    with pytest.raises(ValueError, match=r"at least one readable image, but \['empty'\]") as told:
        read_classes(pets, size=6)
    assert "class 0" not in str(told.value), "its picture is not the reason"
    (pets / "empty" / "x.jpg").write_text("x")
    with pytest.raises(ValueError, match=r"First problem: .*empty.x\.jpg: not an image"):
        read_classes(pets, size=6)


def test_wrong_folders_are_refused(tmp_path, pets):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_classes(tmp_path / "gone")
    with pytest.raises(NotADirectoryError, match="it is a file"):
        read_classes(pets / "class 0" / "0.png")
    with pytest.raises(ValueError, match="found no folder"):
        read_classes(pets / "class 0")
    with pytest.raises(ValueError, match="Give it as root"):
        datasets.load("folder")


def test_no_size_is_the_usual_one_and_0_is_none(pets):
    assert datasets.load("folder", pets).train.inputs.shape[-1] == 84
    with pytest.raises(ValueError, match="size must be at least 1 pixel; found 0"):
        datasets.load("folder", pets, size=0)


def test_a_folder_that_cannot_be_opened_is_named(pets, monkeypatch):
    # the superuser may open anything, so the refusal is played
    real = os.scandir

    def refuse(path):
        if str(path).endswith("class 4"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="class 4: the folder cannot be opened"):
        read_classes(pets, size=6)


def test_of_few_classes_pictures_are_held_out(tmp_path):
    for i in range(2):
        fill(tmp_path / f"{i}", i, count=11)
    with pytest.warns(UserWarning, match=r"2 classes are too few .* nothing about new classes"):
        dataset = datasets.folder(tmp_path, size=6)
    assert not dataset.new_classes
    assert [part.names for part in dataset.splits.values()] == [("0", "1")] * 3
    assert [part.counts.tolist() for part in dataset.splits.values()] == [[7, 7], [2, 2], [2, 2]]
    assert len(read_classes(tmp_path, size=6)) == 2  # as a support set they serve
    for file in (tmp_path / "1").glob("[5-9].png"):
        file.unlink()
    (tmp_path / "1" / "10.png").unlink()
    with (
        pytest.warns(UserWarning, match="too few"),
        pytest.raises(ValueError, match="class '1' has 5"),
    ):
        datasets.folder(tmp_path, size=6)


def test_a_single_class_cannot_be_told_apart(tmp_path):
    fill(tmp_path / "only", 0, count=30)
    with pytest.raises(ValueError, match=r"at least 2 classes; found 1, 'only'"):
        datasets.folder(tmp_path, size=6)


def test_splits_given_as_folders_are_not_split_otherwise(tmp_path):
    for split in ("train", "val", "test"):
        for i in range(2):
            fill(tmp_path / split / f"{split} {i}", i)
    for make in (
        lambda: datasets.load("folder", tmp_path, size=6, fractions=(0.6, 0.2, 0.2)),
        lambda: datasets.load_classes("folder", tmp_path, size=6),
    ):
        with pytest.raises(ValueError, match="has its own splits, the folders train, val, test"):
            make()


def test_only_own_data_are_split(pets):
    assert len(datasets.load_classes("folder", pets, size=6)) == 8
    with pytest.raises(ValueError, match="glyphs has a published split"):
        datasets.load_classes("glyphs")
    with pytest.raises(ValueError, match="glyphs does not take fractions"):
        datasets.load("glyphs", fractions=(0.6, 0.2, 0.2))
    by_fractions = datasets.load("folder", pets, size=6, fractions=(0.25, 0.5, 0.25), split_seed=3)
    assert [len(part) for part in by_fractions.splits.values()] == [2, 4, 2]


def test_real_photographs_of_any_size(shared_data, tmp_path):
    import zipfile

    with zipfile.ZipFile(shared_data / "caltech101" / "caltech101_30_val.zip") as archive:
        archive.extractall(tmp_path)
    classes = read_classes(tmp_path / "101_ObjectCategories", size=32, strict=True)
    assert len(classes) == 15
    assert set(classes.counts.tolist()) == {30}
    spread = classes.inputs.float().std(dim=(1, 2, 3))
    assert spread.min() > 5  # no blank picture
    assert classes.inputs.dtype == torch.uint8


def test_grey_images(pets):
    assert read_classes(pets, 6, 1).inputs.shape[1:] == (1, 6, 6)
    assert np.prod(datasets.folder(pets, size=6, channels=1).train.inputs.shape[1:]) == 36


def test_folders_that_differ_in_capital_letters_alone_are_warned_of(tmp_path):
    for name in ("Cat", "cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell capital letters apart")
    with pytest.warns(UserWarning, match=r"found 'Cat' and 'cat', which are taken for two"):
        assert read_classes(tmp_path, 8).names == ("Cat", "cat")
