"""A user's own sentences with marked entities: tables of relations, and of questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.base.shown import shown
from quickstudy.datasets.fewrel import Sentence
from quickstudy.datasets.row_files import Row, read_rows
from quickstudy.datasets.text_files import files_of, without_empty

_WORD = re.compile(r"\w+|[^\w\s]")


class Asked(NamedTuple):
    """Sentences, and where each stands in its file, such as ``new.csv, line 3``."""

    sentences: list[Sentence]
    places: list[str]


def words_of(text: str) -> tuple[str, ...]:
    """Words and marks of punctuation.

    >>> words_of("The four-lane bridge, by Jo.")
    ('The', 'four', '-', 'lane', 'bridge', ',', 'by', 'Jo', '.')
    """
    return tuple(_WORD.findall(text))


def read_relations(path: Path, *, labelled: bool = True, strict: bool = False) -> Asked:
    """The rows of tables with the columns ``text``, ``head``, ``tail`` and ``relation``.

    Head and tail are words of the text, which are looked for in it; their first occurrence is meant.

    ``labelled``  False for sentences whose relation is asked: that column is not needed, and is "".
    ``strict``    an empty text raises ValueError; else it is left out with a warning.

    Raises FileNotFoundError, and ValueError, naming the line, for a table without these columns, a
    row without a relation, and an entity that its text does not have.
    """  # noqa: E501
    needed = ("text", "head", "tail", *(["relation"] if labelled else []))
    return _read(path, needed, tail="tail", relation="relation" if labelled else "", strict=strict)


def read_questions(
    path: Path, *, labelled: bool = True, grouped: bool = False, strict: bool = False
) -> Asked:
    """The rows of tables with the columns ``text``, ``head`` and ``answer``.

    ``head`` is what the question is about and ``answer`` are the words that answer; both are looked
    for in the text. The answers are the tails of the sentences, the questions their relations.

    ``labelled``  False for texts to be answered: ``answer`` is not needed, and the tail is ().
    ``grouped``   whether a column ``question`` says which rows ask the same; else it is "".
    ``strict``    as for :func:`read_relations`, which it raises like.
    """
    needed = (
        "text", "head", *(["answer"] if labelled else []), *(["question"] if grouped else []),
    )  # fmt: skip
    return _read(
        path, needed, tail="answer" if labelled else "", relation="question" if grouped else "",
        strict=strict,
    )  # fmt: skip


def _read(path: Path, needed: Sequence[str], *, tail: str, relation: str, strict: bool) -> Asked:
    rows = [row for file in files_of([path]) for row in read_rows(file, needed)]
    kept = without_empty([(row.place, row.values["text"]) for row in rows], strict)
    sentences = [_sentence(rows[i], tail, relation) for i in kept]
    return Asked(sentences, [rows[i].place for i in kept])


def _sentence(row: Row, tail: str, relation: str) -> Sentence:
    words = words_of(row.values["text"])
    if relation and not row.values[relation]:
        raise ValueError(f"{row.place}: must have a {relation}. Add it, or leave the row out.")
    return Sentence(
        words,
        find_words(words, row.values["head"], f"{row.place}, head"),
        find_words(words, row.values[tail], f"{row.place}, {tail}") if tail else (),
        row.values[relation] if relation else "",
    )


def find_words(words: Sequence[str], part: str, where: str) -> tuple[int, ...]:
    """The places of the words of ``part`` at their first occurrence, whatever their case.

    >>> find_words(words_of("Jo is the mother of Al"), "the mother", "line 1")
    (2, 3)

    Raises ValueError, which begins with ``where``, where they do not occur.
    """
    wanted = [word.casefold() for word in words_of(part)]
    found = [word.casefold() for word in words]
    for start in range(len(found) - len(wanted) + 1):
        if wanted and found[start : start + len(wanted)] == wanted:
            return tuple(range(start, start + len(wanted)))
    raise ValueError(
        f"{where}: must be words of the text; found {shown(part)}, which the text does not have. "
        "Copy them from the text."
    )
