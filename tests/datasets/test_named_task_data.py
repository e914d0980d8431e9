"""Data sets of named tasks, read from made files and, where they are, from the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import savemat

import quickstudy as qs
from quickstudy.datasets import clinc150, fashion_mnist, glyphs, registry
from quickstudy.datasets.fashion_mnist import GARMENTS, overlaid
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


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def test_overlaid_pictures_keep_both_and_take_the_brighter_pixel():
    pictures = torch.randint(256, (6, 1, 28, 28), dtype=torch.uint8)
    tasks = overlaid(pictures, torch.arange(6), pairs=15, seed=4)
    laid = (tasks["left"].inputs * 255).round().to(torch.uint8)
    left, right = (tasks[side].targets for side in ("left", "right"))
    for image, first, second in zip(laid, left, right, strict=True):
        whole = torch.zeros(2, 36, 36, dtype=torch.uint8)
        whole[0, :28, :28], whole[1, 8:, 8:] = pictures[first, 0], pictures[second, 0]
        assert torch.equal(image[0], whole.amax(0))
    for ids in (left, right):  # 15 of 6 pictures: 2 or 3 times each
        assert set(torch.bincount(ids, minlength=6).tolist()) == {2, 3}
    assert tasks.rows.tables() == [["left", "right"]]


def test_garments_are_test_classes(tmp_path, monkeypatch):
    pictures = np.arange(20, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    files = {
        "t10k-images-idx3-ubyte": idx(pictures),
        "t10k-labels-idx1-ubyte": idx(np.arange(20) % 10),
    }
    put(monkeypatch, tmp_path, "fashion_mnist", files)
    found = qs.datasets.load("fashion_mnist", tmp_path)
    assert len(found.train) == len(found.val) == 0
    assert found.test.names == tuple(sorted(GARMENTS))
    bags = found.test.rows(found.test.names.index("bag"))
    assert bags[:, 0, 0, 0].tolist() == [8, 18]
    files["t10k-labels-idx1-ubyte"] = files["t10k-labels-idx1-ubyte"][:-1]
    put(monkeypatch, tmp_path, "fashion_mnist", files)
    with pytest.raises(ArchiveError, match="must be an IDX file of bytes with 1 dimensions"):
        qs.datasets.load("fashion_mnist", tmp_path)


def test_training_and_test_pairs_share_no_picture(monkeypatch):
    numbers = torch.arange(10_000)
    pictures = torch.zeros(10_000, 1, 28, 28, dtype=torch.uint8)
    pictures[:, 0, 0, 0], pictures[:, 0, 0, 1] = numbers // 256, numbers % 256
    monkeypatch.setattr(fashion_mnist, "read", lambda root: (pictures, numbers % 10))
    monkeypatch.setattr(fashion_mnist, "PAIRS_OF", {"train": 900, "test": 300})
    seen = []
    for part in ("train", "test"):
        tasks = qs.datasets.load_named_tasks("multi_fashion", part=part)
        pixels = (tasks["left"].inputs * 255).round().long()
        corners = pixels[:, 0, 0, :2], pixels[:, 0, 8, 8:10]
        found = [256 * corner[:, 0] + corner[:, 1] for corner in corners]
        for side, task in zip(found, tasks.values(), strict=True):
            assert torch.equal(side % 10, task.targets)
        seen.append(set(torch.cat(found).tolist()))
    assert not seen[0] & seen[1]


def test_reviews_of_each_product_are_a_task(tmp_path, monkeypatch):
    names = CARDS["amazon_reviews"].domains
    files = {f"{name}.svmlight": f"1 0:{place}\n-1 1:1\n".encode()
             for place, name in enumerate(names, 1)}  # fmt: skip
    put(monkeypatch, tmp_path, "amazon_reviews", files)
    tasks = qs.datasets.load_named_tasks("amazon_reviews", tmp_path, part="test")
    assert list(tasks) == ["books", "dvd", "electronics", "kitchen"]
    assert [rows.inputs[0, 0].item() for rows in tasks.values()] == [2, 4, 6, 8]
    assert tasks["dvd"].targets.tolist() == [1, 0]


def test_intents_are_numbered_within_their_domain(shared_data):
    pytest.importorskip("tokenizers")
    tasks = qs.datasets.load_named_tasks("clinc150", shared_data, part="val")
    assert list(tasks) == sorted(tasks)
    assert len(tasks) == 10
    assert tasks.outputs == dict.fromkeys(tasks, 15)
    for rows in tasks.values():
        assert torch.bincount(rows.targets).tolist() == [20] * 15
    intents = clinc150.published_split("clinc150")["domains"]["travel"]
    published = clinc150.read_parts(shared_data / "clinc150" / "data_full.json.gz")["val"]
    pairs = [(text, intent) for text, intent in published if intent in intents]
    assert [intents[k] for k in tasks["travel"].targets.tolist()] == [i for _, i in pairs]
    ids = clinc150.minilm_tokenizer()([text for text, _ in pairs])["ids"]
    found = tasks["travel"].inputs["ids"]
    assert torch.equal(found[:, : ids.shape[1]], ids)
    assert not found[:, ids.shape[1] :].any()


def test_commands_have_an_intent_and_slots(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    commands = [
        {"intent": "Play", "data": [{"text": "play "}, {"text": "Help", "entity": "song"}]},
        {"intent": "Weather", "data": [{"text": "is it cold?"}]},
        {"intent": "Play", "data": [{"text": "Help", "entity": "song"}, {"text": " in "},
                                    {"text": "my list", "entity": "list"}]},
    ]  # fmt: skip
    published = json.dumps({"train": commands[:2], "validation": commands[1:]})
    put(monkeypatch, tmp_path, "snips", {"snips_2017_06.json": published.encode()})
    train, default = (
        qs.datasets.load_named_tasks("snips", tmp_path, part=part) for part in ("train", None)
    )
    assert torch.equal(train["intent"].targets, default["intent"].targets)
    val = qs.datasets.load_named_tasks("snips", tmp_path, part="validation")
    assert train["intent"].targets.tolist() == [0, 1]
    assert val["intent"].targets.tolist() == [1, 0]
    assert train["slots"].targets.tolist() == [[0, 1], [0, 0]]  # list, song
    assert val["slots"].targets.tolist() == [[0, 0], [1, 1]]
    assert torch.equal(train["intent"].inputs["ids"][1], val["intent"].inputs["ids"][0])


def test_glyphs_are_asked_for_script_and_character(monkeypatch):
    images = torch.arange(6).to(torch.uint8).reshape(6, 1, 1, 1).expand(6, 1, 4, 4).clone()
    rows = qs.LabelledRows(images, torch.tensor([2, 1, 3]), ("LATIN A", "GREEK B", "LATIN C"),
                           ("LATIN", "GREEK", "LATIN"))  # fmt: skip
    monkeypatch.setattr(glyphs, "load", lambda root: SimpleNamespace(train=rows))
    tasks = qs.datasets.load_named_tasks("glyphs")
    assert tasks.outputs == {"script": 2, "character": 3}
    assert tasks["script"].targets.tolist() == [0, 0, 1, 0, 0, 0]
    assert tasks["character"].targets.tolist() == [0, 0, 1, 2, 2, 2]
