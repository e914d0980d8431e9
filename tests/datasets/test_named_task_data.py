"""Data sets of named tasks, read from made files and, where they are, from the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

import quickstudy as qs
from quickstudy.datasets import registry
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import CARDS, Checksum


def put(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, files: dict[str, bytes]) -> None:
    """Write the files of data set ``name``, and let its card state their checksums."""
    sums = tuple(Checksum(n, "sha256", hashlib.sha256(d).hexdigest()) for n, d in files.items())
    monkeypatch.setitem(registry.CARDS, name, dataclasses.replace(CARDS[name], checksum=sums))
    (root / name).mkdir(exist_ok=True)
    for file, data in files.items():
        (root / name / file).write_bytes(data)


def schools(*sizes: int, columns: int = 28) -> bytes:
    x, y = (np.empty((1, len(sizes)), dtype=object) for _ in "xy")
    for place, size in enumerate(sizes):
        x[0, place] = np.full((size, columns), place, dtype=np.uint8)
        y[0, place] = np.arange(size, dtype=np.uint8)[:, None]
    stream = io.BytesIO()
    savemat(stream, {"X": x, "Y": y})
    return stream.getvalue()


def test_each_school_is_a_task(tmp_path, monkeypatch):
    put(monkeypatch, tmp_path, "school", {"school.mat": schools(3, 2)})
    tasks = qs.datasets.load_named_tasks("school", tmp_path)
    assert tasks.counts == {"school_001": 3, "school_002": 2}
    assert torch.equal(tasks["school_002"].inputs, torch.ones(2, 28))
    assert tasks["school_001"].targets.tolist() == [[0.0], [1.0], [2.0]]
    put(monkeypatch, tmp_path, "school", {"school.mat": schools(3, columns=27)})
    with pytest.raises(ArchiveError, match="must hold tables X and Y for each school"):
        qs.datasets.load_named_tasks("school", tmp_path)
    put(monkeypatch, tmp_path, "school", {"school.mat": b"no table"})
    with pytest.raises(ArchiveError, match="must hold tables X and Y for each school"):
        qs.datasets.load_named_tasks("school", tmp_path)


def test_the_real_schools_have_the_published_numbers(shared_data):
    tasks = qs.datasets.load_named_tasks("school", shared_data)
    assert (len(tasks), sum(tasks.counts.values())) == (139, 15_362)
    assert {tuple(rows.inputs.shape[1:]) for rows in tasks.values()} == {(28,)}
    train, test = tasks.split_rows(0.75)
    assert all(train.counts[name] == round(0.75 * n) for name, n in tasks.counts.items())
    assert len(train.tested_on(test)) == 139


def test_data_without_named_tasks_name_their_own_function(tmp_path):
    with pytest.raises(ValueError, match=r"omniglot has classes, not named tasks.*school"):
        qs.datasets.load_named_tasks("omniglot")
    with pytest.raises(ValueError, match="school has named tasks, not classes"):
        qs.datasets.load("school")
    with pytest.raises(ValueError, match="school has no part 'test'; its parts are: none"):
        qs.datasets.load_named_tasks("school", part="test")
    with pytest.raises(FileNotFoundError, match=r"school.mat is not in .*github.com"):
        qs.datasets.load_named_tasks("school", tmp_path)
