"""What a comparison found, in a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quickstudy.base.words import count, first_few
from quickstudy.reports.comparison_rows import (
    OTHERS,
    THESE,
    UNKNOWN,
    Row,
    Score,
    Versus,
    labels_of,
    rows_of,
    score_of,
    versus,
)

if TYPE_CHECKING:
    from quickstudy.selection.comparing.comparison import Comparison


def answer(comparison: Comparison) -> list[str]:
    """Which row is best and what is equivalent to it; by how much the best learner is above the
    best baseline, and how sure that is; what failed. The first sentence is the headline."""
    rows, score = rows_of(comparison), score_of(comparison)
    return [
        _best(rows, score, comparison.matters),
        *_above_baselines(rows, score, comparison),
        *_failed(comparison),
    ]


def _best(rows: Sequence[Row], score: Score, matters: float) -> str:
    """Which has the best score, what is equivalent to it, and what cannot be told from it."""
    if not rows:
        return "No learner has a result."
    best, rest = rows[0], rows[1:]
    if math.isnan(best.mean):
        return f"The score, {score.name}, is undefined for all."
    named, figure = _marked(best), f"{score.name} {score.text(best.mean)}"
    if not rest:
        return f"Only {named} has a result: {figure}."
    margin = score.points(matters)
    where = "" if all(row.sure_elsewhere for row in rest) else f" on {THESE}"
    alike = [_marked(row) for row in rest if row.verdict == "equivalent"]
    open_ = [_marked(row) for row in rest if row.verdict == UNKNOWN]
    behind = [_marked(row) for row in rest if row.verdict == "worse"]
    if len(alike) == len(rest):
        return (
            f"No difference that matters{where}: all are equivalent, within {margin}, to {named}, "
            f"{figure}."
        )
    if open_ or behind:
        said = [f"{named} has the best score, {figure}."]
    else:
        said = [f"{named} is best{where}: {figure}."]
    if alike:
        said.append(f"Equivalent to it, within {margin}: {first_few(alike)}.")
    if open_:
        said.append(f"Not known whether it is better than {first_few(open_)}.")
    if behind:
        said.append(f"By the test over tasks it is worse than {first_few(behind)}.")
    return " ".join(said)


def _above_baselines(rows: Sequence[Row], score: Score, comparison: Comparison) -> list[str]:
    """The best learner against the best baseline, or without one against the next learner."""
    learner = next((row for row in rows if not row.baseline), None)
    baseline = next((row for row in rows if row.baseline), None)
    if learner is None or math.isnan(learner.mean):
        return []
    missing = ["There is no baseline beside it."] if baseline is None else []
    other = baseline or next((row for row in rows if row.number > learner.number), None)
    pair = None if other is None else versus(comparison, learner.name, other.name)
    if other is None or pair is None:
        return missing
    side = {
        "better": f"{score.points(pair.difference)} better than",
        "worse": f"{score.points(pair.difference)} worse than",
        "equivalent": f"equivalent ({score.difference(pair.difference)}) to",
        UNKNOWN: f"not known to be better ({score.difference(pair.difference)}) than",
    }[pair.verdict]
    who = "It" if learner.number == 1 else f"The best learner, {learner.label},"
    what = "the next" if baseline is None else "the best baseline"
    than = "that baseline" if other.number == 1 else f"{what}, {other.label}"
    return [
        f"{who} is {side} {than}; 95% intervals of the difference: {intervals_text(pair, score)}.",
        *missing,
    ]


def intervals_text(pair: Versus, score: Score) -> str:
    """Both intervals of a difference, by name, and why the second is not known."""
    others = score.interval(pair.others, sign=True)
    why = f" ({pair.others_over})" if others == UNKNOWN and pair.others_over else ""
    return f"{score.interval(pair.these, sign=True)} for {THESE}, {others}{why} for {OTHERS}"


def _failed(comparison: Comparison) -> list[str]:
    """How many learners failed, and what that means for the ranks."""
    failures = comparison.failures
    if not failures:
        return []
    labels = labels_of(comparison.entries)
    names = first_few([labels[entry.name] for entry in failures])
    they = "it counts" if len(failures) == 1 else "they count"
    return [f"{count(len(failures), 'learner')} failed: {names}; {they} last in the ranks."]


def _marked(row: Row) -> str:
    """The label, and that the row is a baseline."""
    return f"{row.label} (a baseline)" if row.baseline else row.label
