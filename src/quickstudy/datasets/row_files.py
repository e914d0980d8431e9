"""Rows of named values from a user's files: CSV, TSV, or one JSON object on each line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from quickstudy.base.json_text import parse_json
from quickstudy.base.shown import shown, told
from quickstudy.base.words import first_few

MOST_BYTES = 2**28
SUFFIXES = (".csv", ".tsv", ".jsonl")


class Row(NamedTuple):
    """Values by column, and where they stand, such as ``texts.csv, line 3``."""

    place: str
    values: dict[str, str]


def read_rows(path: Path, needed: Sequence[str]) -> list[Row]:
    """The rows of a ``.csv``, ``.tsv`` or ``.jsonl`` file, which must have the ``needed`` columns.

    A table begins with a line of column names; columns are divided by commas, semicolons or
    tabulators, whichever the first line has most. A line of JSON Lines is an object of strings.
    Spaces around values are left out. Empty lines are left out too, and so are columns without a
    name.

    Raises FileNotFoundError, and ValueError, naming the line, for a file that is too large or no
    UTF-8, for missing columns, for two of one name, and for values that are no texts.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: must be a table ({', '.join(SUFFIXES)}). Save it as one of these, with the "
            f"columns {', '.join(needed)}."
        )
    if path.suffix.lower() == ".jsonl":
        rows = _of_lines(path, read_utf8(path))
    else:
        table = read_cells(path)
        rows = (Row(place, dict(zip(table.names, cells, strict=True)))
                for place, cells in zip(table.places, table.cells, strict=True))  # fmt: skip
    found = []
    for row in rows:
        missing = [name for name in needed if name not in row.values]
        if missing:
            raise ValueError(
                f"{row.place}: needs the columns {', '.join(needed)}; found "
                f"{first_few([*map(shown, row.values)]) or 'none'}. Add {', '.join(missing)}."
            )
        found.append(row)
    if not found:
        raise ValueError(f"{path}: must have at least 1 row; found none. Add rows.")
    return found


def read_utf8(path: Path) -> str:
    """The text in a file; ValueError where it is too large, or not in UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: over {MOST_BYTES:,} bytes. Divide it into several files.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: must be in UTF-8; found the byte {content[error.start]:#04x}. "
            "Save the file in UTF-8."
        ) from error


class Cells(NamedTuple):
    """A table: the names of its columns, and of each row its place and its values."""

    names: list[str]
    places: list[str]
    cells: list[list[str]]


def read_cells(path: Path) -> Cells:
    """The table in a file of values that are divided as :func:`read_rows` says, which it raises as.

    For tables of many columns, of which a dict a row would take much memory.
    """
    text = read_utf8(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    # Lines end as they end in the file, so that line breaks inside quotes are kept.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found, width, named = Cells([], [], []), 0, list[int]()
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{path}, line {reader.line_num}"
            if not found.names:
                width, named = len(cells), [k for k, cell in enumerate(cells) if cell.strip()]
                found.names.extend(cells[k].strip() for k in named)
                _refuse_same_names(place, found.names)
                continue
            if len(cells) != width:
                raise ValueError(
                    f"{place}: must have {width} columns, as the first line; found "
                    f"{len(cells)}. Put values that contain {shown(delimiter)} in quotes."
                )
            found.places.append(place)
            found.cells.append([cells[k].strip() for k in named])
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: must be a table of values ({told(error)}). Check "
            "its quotes."
        ) from error
    return found


def _refuse_same_names(place: str, names: Sequence[str]) -> None:
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(
            f"{place}: every column needs a name of its own; found {shown(twice[0])} twice. Rename "
            "one, or leave it out."
        )


def _of_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except ValueError as error:
            raise ValueError(
                f"{place}: must be an object of JSON ({told(error)}). Correct the line."
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"{place}: must be an object of JSON; found {shown(value)}.")
        wrong = [name for name, each in value.items() if not isinstance(each, str)]
        if wrong:
            raise ValueError(
                f"{place}: values must be texts; found {shown(value[wrong[0]])} as "
                f"{shown(wrong[0])}. Put it in quotes, or leave it out."
            )
        yield Row(place, {name: each.strip() for name, each in value.items()})
