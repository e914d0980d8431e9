"""Subwords write every text, and keep placeholders whole; pairs of users are read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quickstudy.datasets.django_messages import almost_equal
from quickstudy.datasets.sentence_pairs import read_languages, read_pairs, read_sources
from quickstudy.datasets.subwords import SPECIAL, Subwords, before, padded

pytest.importorskip("tokenizers", reason="needs the package tokenizers")
TEXTS = ["Delete the %(name)s", "Delete all files", "the files of {user}"] * 3
SUBWORDS = Subwords.learn(TEXTS, 320, ["<es>"])


@pytest.mark.parametrize(
    "text", ["Löschen %(x)s", "", "  \n", "їжак 日本 \U0001f600", "<end> <es> {}"]
)
def test_every_text_is_written_as_it_was(text: str) -> None:
    ids = SUBWORDS.encode(text)
    assert SUBWORDS.decode(ids) == text
    assert not set(ids) & {0, 1, 2, 3, 4}, "a text must not hold special tokens"


def test_the_first_tokens_are_the_special_ones_and_the_same_texts_give_the_same_pieces() -> None:
    assert list(SUBWORDS.names.items()) == [*((n, i) for i, n in enumerate(SPECIAL)), ("<es>", 4)]
    assert Subwords.learn(iter(TEXTS), 320, ["<es>"]) == SUBWORDS
    assert SUBWORDS.size <= 320
    assert Subwords(SUBWORDS.text).encode("Delete") == SUBWORDS.encode("Delete")


def test_a_placeholder_is_cut_alike_wherever_it_stands() -> None:
    alone = SUBWORDS.encode("%(name)s")
    ids = SUBWORDS.encode("x%(name)s-%(name)s")
    found = [i for i in range(len(ids)) if ids[i : i + len(alone)] == alone]
    assert len(found) == 2


def test_wrong_descriptions_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a tokenizer.json"):
        _ = Subwords("{}").size
    with pytest.raises(ValueError, match=r"at least 261, .*found 260"):
        Subwords.learn(TEXTS, 260, ["<es>"])


def test_the_token_before_each() -> None:
    targets = padded([[5, 6, 2], [7, 2]], -1)
    assert before(targets).tolist() == [[1, 5, 6], [1, 7, 2]]
    assert before(torch.tensor([[2, -1, -1]])).tolist() == [[1, 2, 0]]


def test_messages_that_differ_in_punctuation_alone_are_almost_equal() -> None:
    assert almost_equal("It doesn't exist.") == almost_equal("It doesn’t exist")
    assert almost_equal("%(from)s relationship") == almost_equal("%(from)s relationships")
    assert almost_equal("Add") != almost_equal("Added")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_pairs_are_read_and_a_pair_without_a_side_is_named(tmp_path: Path) -> None:
    table = write(tmp_path / "gl.tsv", "source\ttarget\nYes\tSi\nNo\tNon\n")
    assert [pair[:3] for pair in read_pairs(table)] == [("Yes", "", "Si"), ("No", "", "Non")]
    table = write(tmp_path / "gl.csv", "source,target\nYes,Si\nNo,\n")
    with pytest.raises(ValueError, match=r"gl.csv, line 3: .*found nothing for target"):
        read_pairs(table)
    with pytest.raises(ValueError, match=r"needs the columns source, target, nearest"):
        read_pairs(tmp_path / "gl.tsv", nearest=True)


def test_files_that_are_no_utf8_and_empty_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: must be in UTF-8; found the byte 0xe9"):
        read_pairs(write(tmp_path / "latin.tsv", "source\ttarget\nété\tverán\n".encode("latin-1")))
    with pytest.raises(ValueError, match=r"new.txt, line 2: is empty"):
        read_sources([write(tmp_path / "new.txt", "Yes\n\nNo\n")])
    with pytest.raises(ValueError, match=r"must be a table .*source and nearest"):
        read_sources([tmp_path / "new.txt"], nearest=True)
    lines = read_sources([write(tmp_path / "two.txt", "Yes\nNo\n")])
    assert [line.source for line in lines] == ["Yes", "No"]


def test_a_folder_of_tables_gives_languages_by_source(tmp_path: Path) -> None:
    for name, yes in (("a", "si"), ("b", "oui"), ("c", "ja")):
        write(tmp_path / f"{name}.tsv", f"source\ttarget\nYes\t{yes}\n")
    write(tmp_path / "c.tsv", "source\ttarget\nNo\tnein\n")
    found = read_languages(tmp_path)
    assert found.english == ("Yes", "No")
    assert found.translations == {"a": ("si", None), "b": ("oui", None), "c": (None, "nein")}
    (tmp_path / "c.tsv").unlink()
    with pytest.raises(ValueError, match=r"at least 3 languages.*found a.tsv, b.tsv"):
        read_languages(tmp_path)
