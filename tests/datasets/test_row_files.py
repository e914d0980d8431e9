"""Reading users' tables of texts, relations and questions, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickstudy.base.skipped import SkippedInput
from quickstudy.datasets.marked_files import read_questions, read_relations
from quickstudy.datasets.row_files import read_rows
from quickstudy.datasets.text_files import read_lines, read_texts


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"yes, please",good\n no ,bad\n'),
        ("a.csv", '\ufefftext;label\r\n"yes, please";good\r\nno;bad\r\n'),
        ("a.csv", '\n;text;label\n1;"yes, please";good\n2;no;bad\n'),
        ("a.tsv", "label\ttext\ngood\tyes, please\n\nbad\tno\n"),
        ("a.jsonl", '{"text": "yes, please", "label": "good"}\n\n{"text": "no", "label": "bad"}'),
    ],
)
def test_tables_are_read_whatever_divides_their_columns(
    tmp_path: Path, name: str, content: str
) -> None:
    found = read_texts(write(tmp_path, name, content))
    assert (found.texts, found.labels) == (["yes, please", "no"], ["good", "bad"])


def test_a_folder_has_one_file_of_texts_for_each_class(tmp_path: Path) -> None:
    write(tmp_path, "good.txt", "yes\n\nsure\n")
    write(tmp_path, "bad.txt", "no\n")
    found = read_texts(tmp_path)
    assert (found.texts, found.labels) == (["no", "yes", "sure"], ["bad", "good", "good"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,kind\nyes,good\n", r"line 2: needs the columns text, label; found"),
        ("a.csv", "text,label\nyes, please,good\n", r"line 2: must have 2 columns.*found 3"),
        ("a.csv", "text,label,text\na,b,c\n", r"line 1: every column needs.*found 'text' twice"),
        ("a.csv", "text,label\nyes,\n", r"line 2: must have a label"),
        ("a.csv", "text,label\n", r"must have at least 1 row"),
        ("a.csv", 'text,label\n"yes,good\n', r"line 2: must be a table"),
        ("a.csv", b"text,label\nyes,good\n\xff\xfe,bad\n", r"line 3: must be in UTF-8"),
        ("a.csv", "text,label\n,good\n ,bad\n", r"line 2: has an empty text, as all others"),
        ("a.jsonl", '{"text": "yes"', r"line 1: must be an object of JSON"),
        ("a.jsonl", '["yes", "good"]', r"line 1: must be an object of JSON; found"),
        ("a.jsonl", '{"text": 5, "label": "x"}', r"line 1: values must be texts; found 5"),
        ("a.xlsx", "x", r"must be a table \(.csv, .tsv, .jsonl\)"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_texts(write(tmp_path, name, content))


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\nyes,good\n,good\nno,bad\n")
    with pytest.warns(SkippedInput, match=r"left out 1 of 3 texts.*line 3"):
        assert read_texts(path).texts == ["yes", "no"]
    with pytest.raises(ValueError, match="line 3: has an empty text"):
        read_texts(path, strict=True)
    assert read_lines([write(tmp_path, "b.txt", "one\n\n two \n")]) == (
        ["one", "two"], [f"{tmp_path}/b.txt, line 1", f"{tmp_path}/b.txt, line 3"]
    )  # fmt: skip


def test_a_missing_file_and_a_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_rows(tmp_path / "none.csv", ("text",))
    with pytest.raises(ValueError, match=r"must hold a file NAME\.txt for each class"):
        read_texts(tmp_path)


def test_entities_are_found_in_their_text(tmp_path: Path) -> None:
    path = write(
        tmp_path, "r.csv",
        "text,head,tail,relation\nThe four-lane bridge spans the River Tay.,bridge,river tay,on\n",
    )  # fmt: skip
    (sentence,) = read_relations(path).sentences
    assert [sentence.words[i] for i in sentence.head] == ["bridge"]
    assert [sentence.words[i] for i in sentence.tail] == ["River", "Tay"]
    (asked,) = read_questions(
        write(tmp_path, "q.csv", "text,head,answer\nJo bore Al Lee.,Jo,Al Lee\n")
    ).sentences
    assert asked.tail == (2, 3)
    (asked,) = read_questions(
        write(tmp_path, "q.csv", "text,head\nJo bore Al Lee.,Jo\n"), labelled=False
    ).sentences
    assert asked.tail == ()


@pytest.mark.parametrize("part", ["Thames", "bridge over", ""])
def test_an_entity_that_its_text_does_not_have_is_refused(tmp_path: Path, part: str) -> None:
    path = write(
        tmp_path, "r.csv", f"text,head,tail,relation\nA bridge spans the Tay.,{part},Tay,spans\n"
    )
    with pytest.raises(ValueError, match=r"line 2, head: must be words of the text; found"):
        read_relations(path)
