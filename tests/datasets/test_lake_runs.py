"""Lake's 20 one-shot runs, against the archive read by other code and against Omniglot itself."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets
from quickstudy.datasets import lake_runs
from quickstudy.datasets.limits import ArchiveError


@pytest.fixture
def root(shared_data, monkeypatch):
    """The real data, never written to."""
    if not (shared_data / "lake_runs").is_dir():
        pytest.skip(f"no real data: {shared_data} has no lake_runs folder")
    monkeypatch.setattr(lake_runs, "writable_folder", lambda root, name: pytest.fail("download"))
    return shared_data


@pytest.mark.parametrize("run", [1, 4, 20])
def test_each_query_is_a_drawing_of_its_class_by_another_person(root, run):
    """Every drawing is found in Omniglot's evaluation set, which says what it is."""
    known = drawings_of(root, lake_runs.ALPHABETS[(run - 1) // 2])
    support, queries, targets = lake_runs.read_runs(root)[run - 1]
    classes, people = zip(*(known[image.tobytes()] for image in support), strict=True)
    query_classes, other_people = zip(*(known[image.tobytes()] for image in queries), strict=True)
    assert len(set(classes)) == 20
    assert [classes[k] for k in targets] == list(query_classes)
    assert len({*people}) == len({*other_people}) == 1
    assert people != other_people


def drawings_of(root, alphabet):
    """The character and the person of every drawing of an alphabet, by its ink."""
    with zipfile.ZipFile(root / "omniglot" / "images_evaluation.zip") as archive:
        members = [n for n in archive.namelist() if f"/{alphabet}/" in n and n.endswith(".png")]
        assert members
        return {
            (np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) < 128).tobytes():
                (name.split("/")[-2], name[-6:-4])
            for name in members
        }  # fmt: skip


def drawing(root, name):
    """The ink of one file of the archive."""
    with zipfile.ZipFile(root / "lake_runs" / "all_runs.zip") as archive:
        return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) < 128


def labels(root, run):
    """The class of each item, from the published text."""
    with zipfile.ZipFile(root / "lake_runs" / "all_runs.zip") as archive:
        pairs = [
            line.split() for line in archive.read(f"{run}/class_labels.txt").decode().split("\n")
        ]
    return {item[-6:-4]: int(image[-6:-4]) - 1 for item, image in filter(None, pairs)}


def test_pixels_by_modified_hausdorff_distance(root):
    """One run, by other code; ``benchmarks/lake_runs.py --pixels`` gives the published 38.8."""
    run, step = "run06", 3  # every third ink pixel, to be quick
    points = {
        kind: [
            torch.tensor(np.argwhere(drawing(root, f"{run}/{kind}{i:02d}.png"))).double()
            for i in range(1, 21)
        ]
        for kind in ("training/class", "test/item")
    }
    support, queries = ([p - p.mean(0) for p in part] for part in points.values())
    wrong = 0
    for item, target in labels(root, run).items():
        query = queries[int(item) - 1][::step]
        distances = []
        for other in support:
            between = (query[:, None] - other[::step]).square().sum(-1).sqrt()
            distances.append(max(between.amin(0).mean(), between.amin(1).mean()))
        wrong += int(torch.stack(distances).argmin()) != target
    ours = lake_runs.read_runs(root)[5]
    thinned = [[lake_runs.ink_points(each)[::step] for each in part] for part in ours[:2]]
    assert lake_runs.nearest_error(*thinned, ours.targets) == wrong / 20
    assert 0 < wrong < 10  # chance has 19


def test_modified_hausdorff_distance_by_hand():
    a, b = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0]])
    assert lake_runs.modified_hausdorff(a, b) == 2.5  # the mean of 0 and 5; the other way round 0
    assert lake_runs.modified_hausdorff(b, a) == 2.5


def test_images_are_made_as_those_of_omniglot_and_order_can_be_mixed(root):
    plain, large, mixed = (
        datasets.load_tasks("lake_runs", root, **options).source.at(7).support
        for options in ({}, {"size": 35}, {"shuffled": True})
    )
    assert plain.inputs.shape == (20, 1, 28, 28)
    expected = drawing(root, "run08/training/class03.png").reshape(35, 3, 35, 3).mean(axis=(1, 3))
    found = large.inputs[2, 0].numpy()  # each pixel stands for 3 x 3
    assert np.abs(found - expected).max() <= 0.5 / 255 + 1e-6
    assert torch.equal(plain.targets, torch.arange(20))
    assert not torch.equal(mixed.targets, plain.targets)
    assert torch.equal(mixed.inputs[mixed.targets.argsort()], plain.inputs)


def test_damaged_copies_are_refused(root, tmp_path):
    folder = tmp_path / "lake_runs"
    with zipfile.ZipFile(root / "lake_runs" / "all_runs.zip") as archive:
        archive.extractall(folder)  # unpacked, as the publisher advises
    assert len(datasets.load_tasks("lake_runs", tmp_path, download=False)) == 20
    text = folder / "run02" / "class_labels.txt"
    lines = text.read_text().splitlines()
    text.write_text("\n".join(lines[1:]))
    with pytest.raises(ArchiveError, match=r"run02/class_labels\.txt must give .* found 19"):
        datasets.load_tasks("lake_runs", tmp_path)
    first, second = (line.split() for line in lines[:2])
    swapped = [f"{first[0]} {second[1]}", f"{second[0]} {first[1]}", *lines[2:]]
    text.write_text("\n".join(swapped))
    with pytest.raises(ArchiveError, match="the runs differ from the published ones"):
        datasets.load_tasks("lake_runs", tmp_path)
    (folder / "run03" / "test" / "item05.png").unlink()
    with pytest.raises(ArchiveError, match=r"run03/test/item05\.png is missing"):
        datasets.load_tasks("lake_runs", tmp_path)


def test_wrong_names_and_missing_files_name_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"lake_runs has published.*load_tasks, or give it to"):
        datasets.load("lake_runs", tmp_path)
    with pytest.raises(ValueError, match=r"omniglot has classes.*test tasks are: lake_runs"):
        datasets.load_tasks("omniglot", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"all_runs\.zip.*https://"):
        datasets.load_tasks("lake_runs", tmp_path, download=False)
    with pytest.raises(ValueError, match=r"lake_runs: size must be 1 to 105.*found 200"):
        datasets.load_tasks("lake_runs", tmp_path, size=200)
