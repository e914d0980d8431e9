"""Emoji: the pictures, names and split are those of the files; altered files are refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy import datasets
from quickstudy.datasets import cache
from quickstudy.datasets.limits import ArchiveError


@pytest.fixture
def root(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    return shared_data


def test_rows_are_the_four_designs_on_white(root: Path) -> None:
    data = datasets.load("emoji", root)
    assert tuple(len(part) for part in data.splits.values()) == data.card.classes
    listed = json.loads(gzip.decompress((root / "emoji" / "classes.json.gz").read_bytes()))
    places = [i for i, each in enumerate(listed["classes"]) if each["split"] == "test"]
    assert data.test.names[5] == "{char} {name}".format(**listed["classes"][places[5]])
    assert data.test.superclasses is not None
    assert data.test.superclasses[5] == listed["classes"][places[5]]["subcategory"]
    for place, design in enumerate(("noto", "twemoji", "fluent3d", "openmoji")):
        with np.load(root / "emoji" / f"{design}_32.npz") as stored:
            picture = stored["images"][places[5]].astype(float)
        alpha = picture[..., 3:] / 255
        expected = picture[..., :3] * alpha + 255 * (1 - alpha)
        found = data.test.inputs[4 * 5 + place].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=0.51)
    task = qs.tasks.draw(qs.episodes(data.test, ways=5, shots=1, queries=3), 0, 0)
    assert task.query.inputs.shape == (15, 3, 32, 32)


def test_altered_and_missing_files_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"noto_32\.npz. Make it"):
        datasets.load("emoji", tmp_path / "none")
    shutil.copytree(root / "emoji", tmp_path / "emoji", copy_function=shutil.copyfile)
    path = tmp_path / "emoji" / "twemoji_32.npz"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(ArchiveError, match=r"twemoji_32\.npz: differs from the known file"):
        datasets.load("emoji", tmp_path)


def test_pictures_keep_their_order_by_class(root: Path) -> None:
    """Rows of one class are nearer to one another than to those of other classes, in colour."""
    inputs = datasets.load("emoji", root).val.inputs[:400].float().mean((2, 3)).view(-1, 4, 3)
    centred = inputs - inputs.mean(1, keepdim=True)
    within, total = centred.square().mean(), (inputs - inputs.mean((0, 1))).square().mean()
    assert within < 0.6 * total
    assert torch.isfinite(total)
