"""Data sets of named tasks, read from made files and, where they are, from the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
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
    for file, data in files.items():
        (root / file).write_bytes(data)


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


ASSAYS = (
    "first,mol_id,smiles,second\n"
    "1,a,CCO,0\n"
    "0,b,C1=CC=CC=C1,\n"
    "1,c,OCC,1\n"  # ethanol again: agrees in the first label, disagrees in the second
    ",d,c1ccccc1,1\n"  # benzene again, in another notation: knows the other label
    "0,e,C1CC,1\n"  # a ring that is not closed
    "1,f,,1\n"  # no atoms
    "0,g,CN,0\n"
)


def assays(monkeypatch: pytest.MonkeyPatch, root: Path, text: str) -> None:
    put(monkeypatch, root, "tox21", {"tox21.csv": text.encode()})


def test_molecules_become_fingerprints_and_invalid_ones_are_counted(tmp_path, monkeypatch):
    rdkit = pytest.importorskip("rdkit")
    from rdkit.Chem import AllChem

    assert rdkit
    assays(monkeypatch, tmp_path, ASSAYS)
    with pytest.warns(UserWarning, match="tox21: of 7 rows") as told:
        tasks = qs.datasets.load_named_tasks("tox21", tmp_path)
    message = str(told[0].message)
    assert "rows, 2 SMILES cannot be read and are left out: C1CC, " in message
    assert "2 rows of molecules that stand twice are joined; 1 label on which" in message
    first, second = tasks["first"], tasks["second"]
    assert first.targets.flatten().tolist() == [1, 0, 0]  # ethanol, benzene, methylamine
    assert second.targets.flatten().tolist() == [1, 0]  # benzene, methylamine
    expected = [
        list(AllChem.GetMorganFingerprintAsBitVect(AllChem.MolFromSmiles(text), 2, nBits=1024))
        for text in ("CCO", "c1ccccc1", "CN")
    ]
    assert first.inputs.int().tolist() == expected
    assert torch.equal(first.inputs[1:], second.inputs)
    assert tasks.rows.tables() == [["first", "second"]]


@pytest.mark.parametrize("text", ["", "smiles,a\nCC,2\n", "a,b\n1,0\n", "smiles,a\nCC\n"])
def test_a_file_that_is_no_table_of_assays_is_refused(text, tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    assays(monkeypatch, tmp_path, text)
    with pytest.raises(ArchiveError, match=r"tox21.csv: must be a table with a column smiles"):
        qs.datasets.load_named_tasks("tox21", tmp_path)


def test_molecules_without_the_package_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"rdkit.*quickstudy\[molecules\]"):
        qs.datasets.load_named_tasks("sider", tmp_path)


@pytest.mark.parametrize(("name", "tasks"), [("tox21", 12), ("sider", 27)])
def test_the_real_assays_have_the_published_numbers(name, tasks, shared_data):
    from quickstudy.datasets.domains import read_verified
    from quickstudy.datasets.molecules import read_table

    rows = {"tox21": 8_014, "sider": 1_427}  # toxcast, 8,615 rows of 617, takes seconds
    data = read_verified(shared_data, name, f"{name}.csv", "molecules")
    smiles, labels, names = read_table(data, name)
    assert (len(smiles), len(names), labels.shape) == (rows[name], tasks, (rows[name], tasks))
