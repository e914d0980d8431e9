"""Data sets of several domains, read from made files and, where they are, from the real ones."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.sparse import csc_matrix

import quickstudy as qs
from quickstudy.datasets import registry
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.registry import CARDS, Checksum


def expect(monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes]) -> None:
    """Let the card of ``name`` state the checksums of these files."""
    sums = tuple(Checksum(n, "sha256", hashlib.sha256(d).hexdigest()) for n, d in files.items())
    monkeypatch.setitem(registry.CARDS, name, dataclasses.replace(CARDS[name], checksum=sums))


@pytest.fixture
def mushrooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two mushrooms of each stalk shape in two files, one of them packed."""
    files = {
        "agaricus.txt.train": b"1 3:1 53:1\n0 4:1 54:1\n1 5:1 54:1\n",
        "agaricus.txt.test": b"0 53:1 126:1\n",
    }
    expect(monkeypatch, "mushrooms", files)
    folder = tmp_path / "mushrooms"
    folder.mkdir()
    (folder / "agaricus.txt.train.gz").write_bytes(gzip.compress(files["agaricus.txt.train"]))
    (folder / "agaricus.txt.test").write_bytes(files["agaricus.txt.test"])
    return tmp_path


def test_mushrooms_are_told_apart_by_their_stalks(mushrooms: Path) -> None:
    found = qs.datasets.load_domains("mushrooms", mushrooms)
    assert list(found) == ["enlarging", "tapering"]
    assert len(found) == 2
    assert "tapering" in found
    enlarging, tapering = found.values()
    assert enlarging.targets.tolist() == [1, 0]
    assert tapering.targets.tolist() == [0, 1]
    # The file counts columns from 1.
    assert enlarging.inputs.nonzero().tolist() == [[0, 2], [0, 52], [1, 52], [1, 125]]
    assert tapering.inputs.nonzero().tolist() == [[0, 3], [0, 53], [1, 4], [1, 53]]
    assert found.spec == qs.classification(2)
    assert repr(found).startswith("Domains(mushrooms: enlarging 2, tapering 2 rows")


def test_newsgroup_pairs_are_read_from_sparse_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, counts = {}, np.arange(8.0).reshape(2, 4)
    for domain in CARDS["newsgroup_pairs"].domains:
        stream = io.BytesIO()
        savemat(stream, {"fea": csc_matrix(counts), "gnd": np.array([[2], [1]], dtype=np.uint8)})
        files[f"{domain}.mat"] = stream.getvalue()
        (tmp_path / f"{domain}.mat").write_bytes(files[f"{domain}.mat"])
    expect(monkeypatch, "newsgroup_pairs", files)
    found = qs.datasets.load_domains("newsgroup_pairs", tmp_path)
    assert list(found) == list(CARDS["newsgroup_pairs"].domains)
    assert torch.equal(found["rec_vs_talk_2"].inputs, torch.from_numpy(counts).float())
    assert found["comp_vs_sci_1"].targets.tolist() == [1, 0]


def test_a_missing_file_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"agaricus.txt.train is not in .*github.com"):
        qs.datasets.load_domains("mushrooms", tmp_path)


def test_damaged_files_are_refused(mushrooms: Path) -> None:
    packed = mushrooms / "mushrooms" / "agaricus.txt.train.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ArchiveError, match="is not a gzip file, or is cut off"):
        qs.datasets.load_domains("mushrooms", mushrooms)
    packed.write_bytes(gzip.compress(b"1 3:1 53:1\n"))
    with pytest.raises(ArchiveError, match="differs from the published file"):
        qs.datasets.load_domains("mushrooms", mushrooms)


def test_a_file_that_unpacks_to_too_much_is_refused(
    mushrooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits.__init__, "__defaults__", (10, 10, 10, 10))
    with pytest.raises(ArchiveError, match="unpacks to over 10 bytes"):
        qs.datasets.load_domains("mushrooms", mushrooms)


def test_each_kind_of_data_set_is_loaded_by_its_own_function(mushrooms: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mushrooms has domains to transfer between.*load_domains"
    ):
        qs.datasets.load("mushrooms", mushrooms)
    with pytest.raises(
        ValueError, match=r"has domains to transfer between, not published.*load_domains"
    ):
        qs.datasets.load_tasks("mushrooms", mushrooms)
    with pytest.raises(ValueError, match=r"glyphs has classes, not domains.*newsgroup_pairs"):
        qs.datasets.load_domains("glyphs")
    with pytest.raises(
        ValueError, match=r"has no domain 'round'. Its domains are: enlarging, tapering"
    ):
        qs.datasets.load_domains("mushrooms", mushrooms)["round"]


def test_the_real_files_have_the_published_numbers_of_rows(shared_data: Path) -> None:
    counts = {
        "newsgroup_pairs": [(1844, 2000), (1545, 2000), (1875, 2000), (1827, 2000)],
        "mushrooms": [(3516, 126), (4608, 126)],
        "mnist_usps": [(1000, 1, 28, 28), (1000, 1, 28, 28)],
    }
    for name, shapes in counts.items():
        found = qs.datasets.load_domains(name, shared_data)
        assert [tuple(rows.inputs.shape) for rows in found.values()] == shapes


def test_amazon_reviews_count_columns_from_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{d}.svmlight": b"1 0:6 4999:2\n-1 1:3\n" for d in CARDS["amazon_reviews"].domains}
    expect(monkeypatch, "amazon_reviews", files)
    for name, data in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    found = qs.datasets.load_domains("amazon_reviews", tmp_path)
    assert list(found) == list(CARDS["amazon_reviews"].domains)
    reviews = found["dvd_test"]
    assert reviews.inputs.shape == (2, 5000)
    assert reviews.inputs.nonzero().tolist() == [[0, 0], [0, 4999], [1, 1]]
    assert reviews.inputs[reviews.inputs > 0].tolist() == [6, 2, 3]
    assert reviews.targets.tolist() == [1, 0]


def of_digits(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_digits_become_pictures_in_the_unit_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((2, 784), dtype=np.uint8)
    pixels[1, 29] = 255
    labels = np.array([[3], [7]], dtype=np.uint8)
    data = of_digits(xs=pixels, ys=labels, xt=pixels[::-1], yt=labels[::-1])
    expect(monkeypatch, "mnist_usps", {"mnist_usps.npz": data})
    (tmp_path / "mnist_usps.npz").write_bytes(data)
    found = qs.datasets.load_domains("mnist_usps", tmp_path)
    assert found["mnist"].inputs.shape == (2, 1, 28, 28)
    assert found["mnist"].inputs.nonzero().tolist() == [[1, 0, 1, 1]]
    assert found["usps"].inputs[0, 0, 1, 1] == 1
    assert found["mnist"].targets.tolist() == found["usps"].targets.tolist()[::-1] == [3, 7]


@pytest.mark.parametrize("content", [b"no archive", of_digits(xs=np.zeros((2, 784)))])
def test_a_file_without_digits_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect(monkeypatch, "mnist_usps", {"mnist_usps.npz": content})
    (tmp_path / "mnist_usps.npz").write_bytes(content)
    with pytest.raises(ArchiveError, match="must hold pictures of 28 by 28 of two origins"):
        qs.datasets.load_domains("mnist_usps", tmp_path)
