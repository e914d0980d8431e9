"""FewRel: its sentences, their marks, and the relations to train on and to test on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from quickstudy.datasets import fewrel
from quickstudy.datasets.limits import ArchiveError


def test_sentences_have_their_entities_where_they_are_marked(shared_data: Path) -> None:
    sentences = fewrel.read(shared_data, "pubmed", download=False)
    assert len(sentences) == 1000
    assert len({each.relation for each in sentences}) == 10
    for each in sentences:
        assert each.head
        assert each.tail
        assert max(*each.head, *each.tail) < len(each.words)
    first = sentences[0]
    assert [first.words[place] for place in first.head] == ["mhc"]
    assert [first.words[place] for place in first.tail] == ["antigen", "presentation"]


def test_no_relation_is_trained_on_and_tested_on(shared_data: Path) -> None:
    parts = {
        split: {
            name: {each.relation for each in part}
            for name, part in fewrel.read_parts(shared_data, split=split, download=False).items()
        }
        for split in ("first", "second")
    }
    for part in parts.values():
        assert (len(part["train"]), len(part["test"])) == (17 + 8, 8)
        assert not part["train"] & part["test"]
    assert parts["first"]["test"] <= parts["second"]["train"]
    with pytest.raises(ValueError, match="split: 'third' is unknown"):
        fewrel.read_parts(shared_data, split="third")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val_pubmed\.json is not in"):
        fewrel.read(tmp_path, "pubmed", download=False)
    (tmp_path / "fewrel").mkdir()
    (tmp_path / "fewrel" / "val_pubmed.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(ArchiveError, match="differs from the published file"):
        fewrel.read(tmp_path, "pubmed", download=False)
    with pytest.raises(ValueError, match="domain: 'news' is unknown"):
        fewrel.read(tmp_path, "news")
