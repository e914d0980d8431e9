"""Texts -> tokens: what is refused, what is cut, and that it is told."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import quickstudy as qs
import tiny_text
from quickstudy.datasets.tokenizer import TextTokenizer


@pytest.fixture
def tokenize(tmp_path: Path) -> TextTokenizer:
    tiny_text.tokenizer().save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path / "tokenizer.json", tiny_text.POSITIONS)


def test_short_texts_are_padded_where_the_mask_is_false(tokenize: TextTokenizer) -> None:
    tokens = tokenize(["a b", "c"])
    assert tokens["ids"].tolist() == [[1, 4, 5, 2], [1, 6, 2, 0]]
    assert tokens["mask"].tolist() == [[True] * 4, [True] * 3 + [False]]
    assert tokenize(["a"], length=6)["ids"].tolist() == [[1, 4, 2, 0, 0, 0]]
    assert tokenize(np.array(["a"]))["ids"].tolist() == [[1, 4, 2]]


def test_a_text_that_is_too_long_loses_its_end_and_a_warning_says_how_much(
    tokenize: TextTokenizer,
) -> None:
    long = "a b c d e f g h i"  # 11 tokens with start and end
    with pytest.warns(UserWarning, match=r"at most 8 tokens.*1 text of 2.*3 tokens of 14"):
        tokens = tokenize([long, "a"])
    assert tokens["ids"][0].tolist() == [1, 4, 5, 6, 7, 8, 9, 2]
    with pytest.warns(UserWarning, match="at most 4 tokens"):
        assert tokenize([long], length=4)["ids"].tolist() == [[1, 4, 5, 2]]
    with warnings.catch_warnings():  # and the tokenizer cuts nothing afterwards
        warnings.simplefilter("error")
        assert tokenize(["a b c d e f"])["ids"].shape == (1, 8)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a b", "a list of texts; found one text"),
        ([], "at least 1 text; found none"),
        (["a", ""], "at least 1 token; found '' in row 1"),
        (["\n \t"], "at least 1 token"),
        (["a", None], r"found None.*in row 1.*Leave the row out"),
        ([float("nan")], r"found nan.*Leave the row out"),
        ([3], "every row must be a text"),
        ([b"a"], "every row must be a text"),
        ({"a": "b"}, "a list of texts; found dict"),
        (7, "a list of texts; found int"),
        ({"a", "b"}, "a list of texts; found set"),
        (np.array("a"), "a list of texts; found ndarray"),
        (np.array([["a", "label"]]), "found ndarray.*one column of a table"),
        (["a", "b\ud800"], "half of one, at place 1 of row 1"),
    ],
)
def test_what_is_no_text_is_refused(tokenize: TextTokenizer, texts: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 2, 9, -1, 4.0, True])
def test_a_length_that_no_text_fits_is_refused(tokenize: TextTokenizer, length: int) -> None:
    with pytest.raises(ValueError, match="length must be 3 to 8"):
        tokenize(["a"], length=length)


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        TextTokenizer(tmp_path / "tokenizer.json", 8)
    (tmp_path / "tokenizer.json").write_bytes(b"\x80\x04 not JSON")
    with pytest.raises(ValueError, match=r"must be a tokenizer\.json"):
        TextTokenizer(tmp_path / "tokenizer.json", 8)
    with pytest.raises(ValueError, match="longest"):
        TextTokenizer(tmp_path / "tokenizer.json", 2)


def test_tokens_are_rows_of_data_sets_examples_and_tasks(tokenize: TextTokenizer) -> None:
    texts, labels = ["a", "b c", "d e", "f", "g h i", "j"], list("xxyyzz")
    rows = qs.LabelledRows.from_labels(tokenize(texts), labels)
    assert rows.names == ("x", "y", "z")
    task = qs.episodes(rows, ways=2, shots=1, queries=1)(torch.Generator().manual_seed(0))
    assert task.support.inputs["mask"].dtype == torch.bool
    assert task.support.inputs["ids"].shape == (2, 5)
    assert qs.examples(tokenize(texts), [0, 1] * 3).inputs["ids"].shape == (6, 5)


def test_texts_themselves_are_refused_as_inputs_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"encoder\.tokenize\(texts\)"):
        qs.examples(["a text", "another"], [0, 1])


def test_a_copy_shares_the_vocabulary(tokenize: TextTokenizer) -> None:
    assert copy.deepcopy(tokenize) is tokenize
    assert "30 tokens" in repr(tokenize)
