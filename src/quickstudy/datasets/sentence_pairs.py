"""A user's own sentence pairs, one table for each language, and sentences to translate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.base.words import first_few
from quickstudy.datasets.django_messages import Messages
from quickstudy.datasets.row_files import SUFFIXES, read_rows, read_utf8
from quickstudy.datasets.text_files import is_empty


class Pair(NamedTuple):
    """A sentence, the same in the nearest known language or "", its translation, and its place."""

    source: str
    nearest: str
    target: str
    place: str


def read_pairs(path: Path, nearest: bool = False) -> list[Pair]:
    """The pairs in a table (``.csv``, ``.tsv``, ``.jsonl``): its columns ``source`` and ``target``.

    ``nearest``  whether it must have the column ``nearest`` too.

    Raises FileNotFoundError, and ValueError, naming the line, for a file that is not in UTF-8,
    lacks a column, or has a row of which a side is missing.
    """
    columns = ["source", "target", *(["nearest"] if nearest else [])]
    found = []
    for row in read_rows(path, columns):
        missing = [name for name in columns if is_empty(row.values[name])]
        if missing:
            raise ValueError(
                f"{row.place}: a pair needs {' and '.join(columns)}; found nothing for "
                f"{' and '.join(missing)}. Write it, or leave the row out."
            )
        values = row.values
        found.append(Pair(values["source"], values.get("nearest", ""), values["target"], row.place))
    return found


def read_sources(paths: Sequence[Path], nearest: bool = False) -> list[Pair]:
    """Sentences to translate, with "" for the translation.

    A table has the column ``source``, and ``nearest`` where asked. Any other file has a sentence on
    each line; of a folder, all files in it.

    Raises FileNotFoundError, and ValueError, naming the line, for an empty line with others after
    it, for a file that is no UTF-8, and for no sentence.
    """
    columns = ["source", *(["nearest"] if nearest else [])]
    found: list[Pair] = []
    for path in _files(paths):
        if path.suffix.lower() in SUFFIXES:
            for row in read_rows(path, columns):
                if missing := [name for name in columns if is_empty(row.values[name])]:
                    raise ValueError(
                        f"{row.place}: needs {' and '.join(columns)}; found nothing for "
                        f"{' and '.join(missing)}. Write it, or leave the row out."
                    )
                found.append(
                    Pair(row.values["source"], row.values.get("nearest", ""), "", row.place)
                )
            continue
        if nearest:
            raise ValueError(
                f"{path}: must be a table ({', '.join(SUFFIXES)}) with the columns source and "
                "nearest, since the predictor reads both. Give one."
            )
        for number, line in enumerate(read_utf8(path).rstrip("\r\n").split("\n"), 1):
            if is_empty(line):
                raise ValueError(
                    f"{path}, line {number}: is empty, so there is nothing to translate. Remove "
                    "the line."
                )
            found.append(Pair(line.strip("\r"), "", "", f"{path}, line {number}"))
    if not found:
        raise ValueError("predict: needs at least 1 sentence; found none. Give a file of them.")
    return found


def read_languages(folder: Path) -> Messages:
    """The tables in a folder, ``LANGUAGE.tsv`` or of another kind, as messages in many languages.

    Rows with the same ``source`` say the same. Where a table has a source twice, the first counts.

    Raises ValueError for fewer than 3 languages, and what :func:`read_pairs` raises.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder. Give one with a table for each language."
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len({path.stem for path in files}) < 3:
        raise ValueError(
            f"{folder}: needs tables of at least 3 languages, LANGUAGE.tsv, to train on some and "
            f"test on another; found {first_few([path.name for path in files]) or 'none'}. Add "
            "some."
        )
    texts: dict[str, dict[str, str]] = {}
    for path in files:
        own = texts.setdefault(path.stem, {})
        for pair in read_pairs(path):
            own.setdefault(pair.source, pair.target)
    sources = tuple(dict.fromkeys(source for own in texts.values() for source in own))
    return Messages(
        sources,
        {name: tuple(own.get(source) for source in sources) for name, own in texts.items()},
    )


def _files(paths: Sequence[Path]) -> list[Path]:
    """``paths``, with the files of a folder, in order of their names, in its place."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        found += [p for p in inside if p == path or p.name[0] != "."]
    return found
