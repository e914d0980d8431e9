import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.registry import card
from quickstudy.tasks.rows import LabelledRows

LABELS = np.repeat(np.array(["cat", "dog", "emu", "fox", "gnu", "hen", "ibis"]), 5)
X = np.arange(35 * 2 * 3, dtype=np.uint8).reshape(35, 2, 3)


def rows_by_name(dataset):
    return {
        name: part.rows(i) for part in dataset.splits.values() for i, name in enumerate(part.names)
    }


@pytest.mark.parametrize("y", [LABELS, list(LABELS)])
def test_every_row_keeps_its_label(y):
    order = np.random.default_rng(0).permutation(35)
    dataset = datasets.arrays(X[order], np.asarray(y)[order])
    found = rows_by_name(dataset)
    assert set(found) == set(LABELS)
    for name, rows in found.items():
        expected = {r.tobytes() for r in X[np.equal(LABELS, name)]}
        assert {r.numpy().tobytes() for r in rows} == expected


@pytest.mark.parametrize("values", [[3, 1, 7, 100, 5, 6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
def test_labels_of_any_type(values):
    y = np.repeat(values, 4)
    dataset = datasets.arrays(torch.rand(24, 3), torch.tensor(y))
    assert set(rows_by_name(dataset)) == {str(v) for v in np.asarray(values)}


def test_number_types():
    y = LABELS
    assert datasets.arrays(X, y).train.inputs.dtype == torch.uint8
    assert datasets.arrays(X.astype(np.float64), y).train.inputs.dtype == torch.float32
    ids = datasets.arrays(X.astype(np.int64) + 16777217 - 209, y)
    assert max(int(part.inputs.max()) for part in ids.splits.values()) == 16777217  # as ids
    images = X.reshape(35, 1, 2, 3)
    stored = [datasets.arrays(images.astype(kind), y).train.inputs for kind in (np.uint8, np.int32)]
    assert stored[1].dtype == torch.uint8
    assert torch.equal(*stored)
    assert datasets.arrays(torch.from_numpy(X).double(), y).train.inputs.dtype == torch.float32
    read_only = X.copy()
    read_only.flags.writeable = False
    assert datasets.arrays(read_only, y).train.inputs.dtype == torch.uint8


def test_the_seed_decides_the_split():
    tests = {datasets.arrays(X, LABELS, seed=s).test.names for s in range(6)}
    assert len(tests) > 1
    assert (
        datasets.arrays(X, LABELS, seed=3).test.names
        == datasets.arrays(X, LABELS, seed=3).test.names
    )


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, LABELS[:-1], "one per row"),
        (np.zeros(35), LABELS, r"shape \(rows, ...\)"),
        (np.array([["a"]] * 35), LABELS, "must hold numbers"),
        (np.full((35, 2), np.nan), LABELS, "NaN or infinity"),
        (X[:5], LABELS[:5], "needs at least 2 classes; found 1"),
        (np.zeros((0, 2)), np.zeros(0), r"shape \(rows, ...\)"),
    ],
)
def test_wrong_arrays_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        datasets.arrays(x, y)


def test_splits_that_share_a_class_are_refused():
    part = LabelledRows.from_labels(torch.rand(4, 2), ["a", "a", "b", "b"])
    other = LabelledRows.from_labels(torch.rand(4, 2), ["b", "b", "c", "c"])
    third = LabelledRows.from_labels(torch.rand(2, 2), ["d", "d"])
    with pytest.raises(ValueError, match=r"train and test must not share classes.*: b"):
        Dataset(card("arrays"), part, third, other)


def test_load_from_a_file(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, X=X, y=LABELS)
    dataset = datasets.load("arrays", path)
    assert set(rows_by_name(dataset)) == set(LABELS)
    assert repr(dataset).startswith("Dataset(arrays: classes train")


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"call datasets\.arrays"):
        datasets.load("arrays")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        datasets.load("arrays", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.load("arrays", tmp_path / "gone.npz")
    np.savez(tmp_path / "other.npz", images=X)
    np.savez(tmp_path / "pickled.npz", X=X, y=np.array([{1: 2}] * 35, dtype=object))
    np.save(tmp_path / "single.npy", X)
    (tmp_path / "text.npz").write_text("no arrays")
    for name in ("other.npz", "pickled.npz", "single.npy", "text.npz"):
        with pytest.raises(ValueError, match=f"{name}: must be a .npz file with arrays named X"):
            datasets.load("arrays", tmp_path / name)


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2 if "bomb" in members else 0) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def array_header(shape, descr="|u1"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


@pytest.mark.parametrize("content", [
    array_header((10**15,)),
    array_header((-5, 3)),
    array_header((10**30,)),
    array_header((3, 2), "|O"),
    array_header("(" * 3000),
    array_header("(1, 'x')"),
    b"\x93NUMPY\1\0\xff\xff",
    b"",
])  # fmt: skip
def test_files_that_claim_what_they_do_not_hold_are_refused(tmp_path, content):
    path = npz(tmp_path / "a.npz", X=content, y=content)
    with pytest.raises(ValueError, match=r"a\.npz: (arrays: X )?must") as caught:
        datasets.load("arrays", root=path)
    assert len(str(caught.value)) < 700


def test_a_bomb_of_arrays_is_refused_before_it_is_unpacked(tmp_path):
    zeros = array_header((20_000_000,)) + bytes(20_000_000)
    path = npz(tmp_path / "a.npz", X=zeros, y=zeros, bomb=b"")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.npz: .*packed by method 12"):
        datasets.load("arrays", root=path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
