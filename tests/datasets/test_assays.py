"""Tables of molecules and assays: what is read, what is refused, and how they are split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets import assays
from quickstudy.datasets.smiles import molecule_inputs, read_smiles

pytest.importorskip("rdkit")

TABLE = "smiles,A_one,note,B_two\nCCO,1,x,0\nC1CC,0,y,1\nOCC,1,z,1\nc1ccccc1,,w,0\nCN,0,v,\n"


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_table_is_read_and_what_is_left_out_is_told(tmp_path):
    path = write(tmp_path, TABLE)
    with pytest.warns(SkippedInput, match="left out") as told:
        table = assays.read_assays(path)
    messages = [str(each.message) for each in told]
    assert any("is no assay, and left out: note ('x')." in m for m in messages)
    assert any("rows of one molecule disagree on 1 label, which counts" in m for m in messages)
    assert any("left out 1 of 5 rows that cannot be read: 'C1CC'" in m for m in messages)
    assert SkippedInput in {each.category for each in told}
    assert (table.names, table.invalid) == (("A_one", "B_two"), ("C1CC",))
    assert table.smiles == ("CCO", "c1ccccc1", "CN")  # ethanol once
    expected = torch.tensor([[1, torch.nan], [torch.nan, 0], [0, torch.nan]])  # disagrees in B_two
    assert torch.equal(table.labels.nan_to_num(-1), expected.nan_to_num(-1))
    with pytest.raises(ValueError, match=r"1 of 5 rows that cannot be read: 'C1CC'.*strict"):
        assays.read_assays(path, strict=True)


@pytest.mark.parametrize(("text", "found"), [
    ("", "found an empty file"),
    ("smiles,a\n", "found its head only"),
    ("molecule,a\nCC,1\n", "needs one column named smiles; found molecule, a"),
    ("smiles\nCC\n", "needs a column of labels for each assay"),
    ("smiles,a\nCC\n", "line 2: must have 2 columns"),
    ('smiles,a\nCC,"1\nCO,0\n', "line 3: must be a table of values"),
    ("smiles,a,a\nCC,1,0\n", "line 1: every column needs a name of its own; found 'a' twice"),
    ("smiles,a\nC\u00e9,1\n", "no molecule of 1 row can be read"),
    ("smiles,a\nCC\0CO,1\n", "no molecule of 1 row can be read"),
    ("smiles,a\nC1CC,1\n", "no molecule of 1 row can be read"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::quickstudy.base.skipped.SkippedInput")
def test_other_files_are_refused(text, found, tmp_path):
    with pytest.raises(ValueError, match=found):
        assays.read_assays(write(tmp_path, text))


@pytest.mark.parametrize("text", [
    "\ufeff\nSMILES;A;;C\r\nCC;1;;\r\n\r\nCO;0;;\r\n",
    "smiles\tA\nCC\tTrue\nCO\tFALSE\n",
    'A,smiles\n1.0,"CC"\n0.0,CO\n',
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*C .nothing.:UserWarning")
def test_tables_of_other_programs_are_read(text, tmp_path):
    table = assays.read_assays(write(tmp_path, text))
    assert (table.names, table.smiles) == (("A",), ("CC", "CO"))
    assert table.labels.tolist() == [[1], [0]]


def test_parts_share_no_assay_and_no_molecule():
    texts = [f"{'C' * n}O" for n in range(1, 21)]
    inputs = molecule_inputs(read_smiles(texts, "test").molecules)
    labels = (torch.arange(80).reshape(20, 4) % 3 == 0).float()
    table = assays.AssayTable(tuple(texts), inputs, labels, ("A_1", "B_1", "A_2", "C_1"))
    train, test = assays.split(table, [n for n in table.names if assays.family(n) == "A"], 0.4)
    assert (train.names, test.names) == (("B_1", "C_1"), ("A_1", "A_2"))
    assert sorted(train.smiles + test.smiles) == sorted(texts)
    assert len(test.smiles) == 8
    for part, columns in ((train, [1, 3]), (test, [0, 2])):
        rows = [texts.index(text) for text in part.smiles]
        assert torch.equal(part.labels, labels[rows][:, columns])
        assert torch.equal(part.inputs["counts"], inputs["counts"][rows])
    with pytest.raises(ValueError, match="needs assays to train on and to test on; found 0 and 4"):
        assays.split(table, table.names)
    with pytest.raises(ValueError, match="held_out must be between 0 and 1; found 1"):
        assays.split(table, ["A_1"], 1.0)
    with pytest.raises(ValueError, match="the table has no D_1"):
        table.assays(["D_1"])


def test_a_task_of_all_labels_draws_labelled_molecules():
    labels = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [0.0, 1.0]])
    table = assays.AssayTable(("a", "b", "c"), {"counts": torch.eye(3)}, labels, ("x", "y"))
    task = table.as_labels(40)(torch.Generator().manual_seed(0))
    assert task.spec.name == "all labels"
    drawn = torch.cat([part.inputs["counts"] for part in task[:2]]).sum(0)
    assert drawn[1] == 0
    assert drawn.sum() == 40
    with pytest.raises(ValueError, match="a molecule with a label; found rows=40, 0 labelled"):
        table.rows(torch.tensor([1])).as_labels(40)


def test_counted_fingerprints_are_those_of_rdkit():
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecules = [Chem.MolFromSmiles(text) for text in ("CCCCO", "c1ccccc1CC")]
    found = molecule_inputs(molecules)
    for molecule, row, codes in zip(molecules, found["counts"], found["smiles"], strict=True):
        expected = torch.zeros(2048)
        hashed = AllChem.GetHashedMorganFingerprint(molecule, 2, nBits=2048)
        for bit, times in hashed.GetNonzeroElements().items():
            expected[bit] = times
        assert torch.equal(row, expected)
        assert bytes(codes[codes > 0].tolist()).decode() == Chem.MolToSmiles(molecule)
    assert found["counts"].max() > 1


def test_a_molecule_too_large_for_a_graph_is_refused():
    large = read_smiles(["C" * 300], "test").molecules
    assert molecule_inputs(large)["counts"].sum() > 0
    with pytest.raises(ValueError, match="may have 256 atoms; found a molecule of 300"):
        molecule_inputs(large, graph=True)


def test_the_real_table_has_the_numbers_that_are_stated(shared_data):
    """Of its SMILES alone, since its 617 columns take seconds."""
    import csv
    import io

    from quickstudy.datasets.domains import read_verified

    data = read_verified(shared_data, "toxcast", "toxcast.csv", "molecules")
    head, *rows = csv.reader(io.StringIO(data.decode()))
    assert (len(rows), len(head) - 1) == (8_615, 617)
    tested = [name for name in head[1:] if assays.family(name) in assays.TOXCAST_TEST]
    assert len(tested) == 117
