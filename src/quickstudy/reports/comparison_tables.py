"""A comparison as tables: for the terminal (rich), for Markdown files and for its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from quickstudy.base.words import count, in_bytes, in_thousands
from quickstudy.reports.comparison_rows import (
    OTHERS,
    THESE,
    UNKNOWN,
    Row,
    labels_of,
    rows_of,
    score_of,
    versus,
)
from quickstudy.reports.comparison_words import answer
from quickstudy.reports.words import axis, duration, visible

if TYPE_CHECKING:
    from rich.console import Group

    from quickstudy.evaluation.result import Result
    from quickstudy.selection.comparing.comparison import Comparison

NUMBER = "#"
"""The column of a row's number, by which figures and matrices name it."""

LONGEST = 22
"""Letters of a name that a terminal shows without breaking it."""

_NOT_SHOWN = {"mean rank", "wall time", "one adaptation", "parameters", "size"}
"""Columns that a terminal has no room for."""


def ranking_table(comparison: Comparison) -> list[dict[str, object]]:
    """A row for each learner and baseline, the best first and those that failed last.

    For :func:`~quickstudy.reports.tables.markdown_table`. ``rank`` is the mean over tasks, and
    "first is" the verdict of the first row against this one.
    """
    score, rows = score_of(comparison), rows_of(comparison)
    ranks = comparison.mean_ranks
    found: list[dict[str, object]] = [
        {
            NUMBER: str(row.number),
            "learner": f"{row.label} (baseline)" if row.baseline else row.label,
            axis(score.name, "", score.higher_is_better): score.text(row.mean),
            THESE: score.interval(row.these),
            OTHERS: score.interval(row.others),
            "the first is": _against_first(comparison, rows[0], row),
            "mean rank": _rank(row.rank),
            "CPU time": _time(row.cpu_seconds),
            "wall time": _time(row.seconds),
            "one adaptation": _time(row.adaptation),
            "parameters": in_thousands(row.parameters),
            "size": in_bytes(row.bytes),
        }
        for row in rows
    ]
    labels = labels_of(comparison.entries)
    found += [
        {
            NUMBER: "–",
            "learner": labels[entry.name],
            axis(score.name, "", score.higher_is_better): "failed",
            "mean rank": _rank(ranks.get(entry.name, math.nan)),
        }
        for entry in comparison.failures
    ]
    return found


def pairs_table(comparison: Comparison) -> list[dict[str, object]]:
    """A row for each pair, the better-ranked first: verdict, difference, intervals, ties and p."""
    score = score_of(comparison)
    found: list[dict[str, object]] = []
    for first, second in combinations(rows_of(comparison), 2):
        pair = versus(comparison, first.name, second.name)
        if pair is None:
            continue
        others = score.interval(pair.others, sign=True)
        found.append({
            "first": f"{first.number} {first.label}",
            "is": pair.verdict,
            "second": f"{second.number} {second.label}",
            "difference": score.difference(pair.difference),
            THESE: score.interval(pair.these, sign=True),
            OTHERS: f"{others}: {pair.others_over}" if others == UNKNOWN else others,
            "ties": "–" if math.isnan(pair.ties) else f"{100 * pair.ties:.0f}%",
            "p (Holm)": "–" if math.isnan(pair.p_holm) else f"{pair.p_holm:.2g}",
        })  # fmt: skip
    return found


def comparison_table(comparison: Comparison, title: str = "") -> Group:
    """A comparison for the terminal: the answer, the ranking, what failed, and how it was tested.

    Times, sizes and pairs are left to the page and the files: a terminal has no room for them.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    lines = ranking_table(comparison)
    columns = [c for c in dict.fromkeys(c for line in lines for c in line) if c not in _NOT_SHOWN]
    room = min(LONGEST, max((len(str(line["learner"])) for line in lines), default=0))
    for column in columns:
        table.add_column(
            column,
            justify="right" if column == NUMBER else "left",
            overflow="fold",
            min_width=room if column == "learner" else None,
        )
    for line in lines:
        style = "bold" if line[NUMBER] == "1" else ""
        table.add_row(*(Text(visible(line.get(c, "")), style=style) for c in columns))
    headline, *others = answer(comparison)
    labels = labels_of(comparison.entries)
    return Group(
        *([Text(visible(title), style="italic")] if title else []),
        Text(visible(headline), style="bold"),
        *(Text(visible(sentence)) for sentence in others),
        table,
        *(Text(visible(f"failed: {labels[entry.name]}: {entry.failure}"), style="red")
          for entry in comparison.failures),
        *(Text(visible(f"no {name}: {why}"), style="dim")
          for name, why in comparison.left_out.items()),
        Text(visible(how_tested(comparison)), style="dim"),
    )  # fmt: skip


def how_tested(comparison: Comparison) -> str:
    """How the rows were tested, in one sentence."""
    score = score_of(comparison)
    fingerprint = f" ({comparison.fingerprint})" if comparison.fingerprint else ""
    return (
        f"{count(comparison.tasks, 'test task')}{fingerprint}, the same for all; "
        f"{count(comparison.trainings, 'training')} of each learner; {comparison.protocol}; "
        f"a difference of {score.points(comparison.matters)} matters; 95% intervals"
        f"{only_these(comparison)}"
    )


def only_these(comparison: Comparison) -> str:
    """What verdicts do not hold for, where nothing is known of other trainings; else ""."""
    if any(pair.others is None and pair.verdict != UNKNOWN for pair in comparison.pairs):
        return "; verdicts are of these trainings and classes alone, and others may differ"
    return ""


def shots_table(curves: Mapping[str, Mapping[int, Result]]) -> list[dict[str, object]]:
    """A row for each label, a column for each number of shots, with intervals over tasks."""
    shots = sorted({number for of in curves.values() for number in of})
    return [
        {
            "learner": label,
            **{count(k, "shot"): of[k].figure if k in of else "–" for k in shots},
        }
        for label, of in curves.items()
    ]


def _against_first(comparison: Comparison, first: Row, row: Row) -> str:
    """The verdict of the first row against another, and the difference: "better, +1.3"."""
    if row.number == first.number:
        return "–"
    pair = versus(comparison, first.name, row.name)
    if pair is None:
        return UNKNOWN
    return f"{pair.verdict}, {score_of(comparison).difference(pair.difference)}"


def _rank(rank: float) -> str:
    return "–" if math.isnan(rank) else f"{rank:.2f}"


def _time(seconds: float) -> str:
    return "–" if math.isnan(seconds) else duration(seconds) if seconds else "none"
