"""What a predictor of an application says about a user's files, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quickstudy.reports.words import visible

if TYPE_CHECKING:
    from rich.table import Table


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """``rows`` of JSON values as a table with a column for each name that occurs."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(names):
        numbers = all(_is_number(row[name]) for row in rows if name in row)
        table.add_column(
            Text(visible(name.replace("_", " "))), justify="right" if numbers else "left",
            overflow="fold", style="bold" if place == 1 else "",
        )  # fmt: skip
    for row in rows:
        table.add_row(*(Text(in_words(row.get(name))) for name in names))
    return table


def in_words(value: Any) -> str:
    """A JSON value for people: numbers with 3 digits, a line for each mapping of a list."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
        case Mapping():
            return ", ".join(
                f"{visible(str(name))} {in_words(each)}" for name, each in value.items()
            )
        case list() | tuple():
            mappings = any(isinstance(each, Mapping) for each in value)
            return ("\n" if mappings else " ").join(map(in_words, value)) or "none"
        case _:
            return visible(str(value))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
