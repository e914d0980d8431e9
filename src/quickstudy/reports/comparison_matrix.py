"""The matrix of all pairs of a comparison, readable without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quickstudy.reports.comparison_rows import (
    UNKNOWN,
    Row,
    Score,
    rows_of,
    score_of,
    versus,
)
from quickstudy.reports.comparison_words import intervals_text
from quickstudy.reports.markup import Markup, join, tag

if TYPE_CHECKING:
    from quickstudy.selection.comparing.comparison import Comparison

SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", UNKNOWN: "?"}
"""What stands for each verdict in a cell."""

MOST_WITH_WORDS = 8
"""Most rows of a matrix whose cells also have the verdict in words."""

_CLASSES = {"better": "right", "worse": "wrong", "equivalent": "same", UNKNOWN: "none"}


def matrix(comparison: Comparison) -> Markup:
    """Each row against each column: a sign and a word for the verdict, and the difference.

    Where there are many rows, a key below has the words.
    """
    rows, score = rows_of(comparison), score_of(comparison)
    in_words = len(rows) <= MOST_WITH_WORDS
    heads = (tag("th", tag("abbr", str(row.number), title=row.label), scope="col") for row in rows)
    lines = (
        tag("tr", tag("th", f"{row.number}  {_short(row.label)}", scope="row"),
            *(_cell(comparison, row, column, score, in_words) for column in rows))
        for row in rows
    )  # fmt: skip
    table = tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *lines),
                class_="matrix")  # fmt: skip
    key = (tag("li", tag("b", sign), f" {verdict}") for verdict, sign in SIGNS.items())
    return join(
        tag("div", table, class_="scroll"), None if in_words else tag("ul", *key, class_="key note")
    )


def _short(label: str, most: int = 40) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _cell(comparison: Comparison, row: Row, column: Row, score: Score, in_words: bool) -> Markup:
    if row.number == column.number:
        return tag("td", class_="self")
    pair = versus(comparison, row.name, column.name)
    if pair is None:
        return tag("td", "–", class_="none", title="not compared")
    title = f"{row.label} against {column.label}: {pair.verdict}. 95% intervals: "
    return tag(
        "td",
        tag("b", f"{SIGNS[pair.verdict]} {pair.verdict}" if in_words else SIGNS[pair.verdict]),
        tag("span", score.difference(pair.difference)),
        class_=_CLASSES[pair.verdict],
        title=title + intervals_text(pair, score),
    )
