"""CLINC150: its splits, its texts and tokens, and damaged files."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets import clinc150
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.sources import published_split

LISTS = published_split("clinc150")
INTENTS = sorted(intent for intents in LISTS["domains"].values() for intent in intents)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the form of the published one: 2 + 1 + 1 texts of each intent."""
    counts = {"train": 2, "val": 1, "test": 1}
    rows = {
        part: [[f"{part} {i} says {intent}", intent] for intent in INTENTS for i in range(n)]
        for part, n in counts.items()
    } | {"oos_train": [["out of scope", "oos"]]}
    content = json.dumps(rows).encode()
    monkeypatch.setattr(clinc150, "SHA256", hashlib.sha256(content).hexdigest())
    path = tmp_path / "clinc150" / "data_full.json"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_splits_have_separate_intents_and_together_all() -> None:
    sizes = {part: len(names) for part, names in LISTS["intents_split"].items()}
    assert sizes == {"train": 90, "val": 30, "test": 30}
    assert sorted(i for names in LISTS["intents_split"].values() for i in names) == INTENTS
    assert sorted(d for ds in LISTS["domains_split"].values() for d in ds) == sorted(
        LISTS["domains"]
    )
    assert all(len(intents) == 15 for intents in LISTS["domains"].values())
    assert len(set(INTENTS)) == 150


def test_every_text_is_in_its_intent(made_up: Path, tmp_path: Path) -> None:
    dataset = datasets.load("clinc150", tmp_path, download=False)
    texts = datasets.load_texts("clinc150", tmp_path, download=False)
    tokenizer = clinc150.minilm_tokenizer()
    assert tuple(len(c) for c in dataset.splits.values()) == (90, 30, 30) == dataset.card.classes
    for part, rows in dataset.splits.items():
        assert list(rows.names) == LISTS["intents_split"][part]
        assert set(rows.counts.tolist()) == {4}
        for intent in rows.names[:3]:
            own = [t for t, i in zip(*texts[part], strict=True) if i == intent]
            assert all(text.endswith(f"says {intent}") for text in own)
            expected = tokenizer(own, length=rows.inputs["ids"].shape[1])
            found = rows.rows(rows.names.index(intent))
            assert torch.equal(found["ids"], expected["ids"])
            assert torch.equal(found["mask"], expected["mask"])
    assert "out of scope" not in [t for part in texts.values() for t in part.texts]
    assert "inputs ids (" in repr(dataset)


def test_whole_domains_can_be_held_out(made_up: Path, tmp_path: Path) -> None:
    dataset = datasets.load("clinc150", tmp_path, split="domains", download=False)
    assert tuple(len(c) for c in dataset.splits.values()) == (90, 30, 30)
    for part, rows in dataset.splits.items():
        assert set(rows.superclasses or ()) == set(LISTS["domains_split"][part])
        for intent, domain in zip(rows.names, rows.superclasses or (), strict=True):
            assert intent in LISTS["domains"][domain]
    with pytest.raises(ValueError, match="'random' is unknown"):
        datasets.load("clinc150", tmp_path, split="random", download=False)


def test_a_packed_file_gives_the_same(made_up: Path, tmp_path: Path) -> None:
    plain = datasets.load_texts("clinc150", tmp_path, download=False)
    made_up.with_name("data_full.json.gz").write_bytes(gzip.compress(made_up.read_bytes()))
    made_up.unlink()
    assert datasets.load_texts("clinc150", tmp_path, download=False) == plain


def test_damaged_files_are_refused(made_up: Path, tmp_path: Path) -> None:
    content = made_up.read_bytes()
    made_up.write_bytes(content + b" ")
    with pytest.raises(ArchiveError, match="wrong checksum"):
        datasets.load("clinc150", tmp_path, download=False)
    made_up.unlink()
    packed = made_up.with_name("data_full.json.gz")
    packed.write_bytes(gzip.compress(content)[:-200])
    with pytest.raises(ArchiveError, match="wrong checksum"):
        datasets.load("clinc150", tmp_path, download=False)
    packed.write_bytes(b"no gzip")
    with pytest.raises(ArchiveError, match="damaged"):
        datasets.load("clinc150", tmp_path, download=False)
    packed.write_bytes(gzip.compress(bytes(2**27)))  # 128 MiB; no more than 16 are unpacked
    with pytest.raises(ArchiveError, match="wrong checksum"):
        datasets.load("clinc150", tmp_path, download=False)
    packed.unlink()
    with pytest.raises(FileNotFoundError, match="Allow the download"):
        datasets.load("clinc150", tmp_path, download=False)


def test_the_published_file_is_read(shared_data: Path) -> None:
    texts = datasets.load_texts("clinc150", shared_data, download=False)
    assert {part: len(own.texts) for part, own in texts.items()} == {
        "train": 13_500, "val": 4_500, "test": 4_500,
    }  # fmt: skip
    assert all(own.labels.count(own.labels[0]) == 150 for own in texts.values())


def test_only_data_sets_of_texts_have_texts() -> None:
    with pytest.raises(ValueError, match=r"glyphs has no texts.*clinc150"):
        datasets.load_texts("glyphs")
