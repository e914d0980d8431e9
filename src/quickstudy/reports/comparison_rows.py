"""A comparison as the rows that its page, figures and tables show, the best score first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quickstudy.evaluation import wording
from quickstudy.reports.words import visible

if TYPE_CHECKING:
    from quickstudy.evaluation.intervals import Interval
    from quickstudy.selection.comparing.comparison import Comparison, Entry

THESE = "these classes"
OTHERS = "other trainings, other classes"
"""The names of the two intervals, in every text."""

UNKNOWN = "not known"

OPPOSITE = {"better": "worse", "worse": "better"}
"""Verdicts that change when a pair is read from its other side."""


@dataclass(frozen=True)
class Row:
    """One learner or baseline of a comparison that has a score.

    ``number``      its place in the order of scores, from 1; figures and matrices show it.
    ``name``        in the comparison, which no two rows share.
    ``label``       what people read.
    ``baseline``    whether it is a baseline.
    ``mean``        its score; NaN for one that is undefined.
    ``these``       95% interval for other tasks of these classes; None where it is not known.
    ``others``      95% interval for other trainings and other classes; None where it is not known.
    ``rank``        its mean rank over tasks; NaN where there is none.
    ``verdict``     of the first row against this one, "" for the first row itself.
    ``sure_elsewhere``  whether the verdict is also about other trainings and other classes.
    ``seconds``     wall time of one training; NaN where it is not known, 0 without training.
    ``cpu_seconds`` CPU time of one training, over all cores.
    ``adaptation``  seconds of one adaptation.
    """

    number: int
    name: str
    label: str
    baseline: bool
    mean: float
    these: Interval | None
    others: Interval | None
    rank: float
    verdict: str
    sure_elsewhere: bool
    seconds: float
    cpu_seconds: float
    adaptation: float
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Score:
    """The score of all rows; see :class:`~quickstudy.evaluation.result.Result`."""

    name: str
    unit: str
    higher_is_better: bool

    def text(self, value: float) -> str:
        """A score, "–" where it is undefined."""
        return "–" if math.isnan(value) else wording.score(value, self.unit)

    def difference(self, value: float) -> str:
        """A difference with its sign, in points for a share: 0.0321 -> "+3.2"."""
        return "–" if math.isnan(value) else wording.difference(value, self.unit)

    def interval(self, interval: Interval | None, sign: bool = False) -> str:
        """ "96.7 to 97.5", "not known" where it is None or without finite ends."""
        if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return UNKNOWN
        write = wording.difference if sign else wording.score
        low, high = (write(end, self.unit) for end in (interval.low, interval.high))
        return f"{low.removesuffix('%')} to {high}"

    def points(self, value: float) -> str:
        """A difference without its sign and with its unit: "3.2 points", "0.012"."""
        size = wording.difference(abs(value), self.unit).removeprefix("+")
        if self.unit != "%":
            return size
        return f"{size} point" if size == "1.0" else f"{size} points"


def score_of(comparison: Comparison) -> Score:
    """The score by which ``comparison`` is made."""
    results = (result for entry in comparison.entries for result in entry.results)
    first = next(results, None)
    if first is None:
        return Score("score", "", higher_is_better=True)
    return Score(first.score, first.unit, first.higher_is_better)


def rows_of(comparison: Comparison) -> tuple[Row, ...]:
    """The entries that have a result, the best score first; those with an undefined one last."""
    sign = -1.0 if score_of(comparison).higher_is_better else 1.0
    done = [entry for entry in comparison.ranking if not entry.failed]
    done.sort(key=lambda entry: _last_if_nan(sign * comparison.figures[entry.name].mean))
    labels = labels_of(comparison.entries)
    rows: list[Row] = []
    for number, entry in enumerate(done, 1):
        figures = comparison.figures[entry.name]
        pair = versus(comparison, rows[0].name, entry.name) if rows else None
        baseline = entry.kind == "baseline"
        rows.append(Row(
            number=number,
            name=entry.name,
            label=labels[entry.name],
            baseline=baseline,
            mean=figures.mean,
            these=figures.these,
            others=figures.others,
            rank=comparison.mean_ranks.get(entry.name, math.nan),
            verdict="" if not rows else UNKNOWN if pair is None else pair.verdict,
            sure_elsewhere=pair is not None and pair.others is not None,
            seconds=_untrained(entry.train_time, baseline),
            cpu_seconds=_untrained(entry.train_cpu_time, baseline),
            adaptation=entry.adapt_seconds,
            parameters=entry.parameters,
            bytes=entry.bytes,
        ))  # fmt: skip
    return tuple(rows)


def labels_of(entries: Sequence[Entry]) -> dict[str, str]:
    """By name, the title of each entry; with the name behind it where another has its title."""
    titles = Counter(visible(entry.title or entry.name) for entry in entries)
    return {
        entry.name: title if titles[title] == 1 else f"{title} ({visible(entry.name)})"
        for entry in entries
        for title in (visible(entry.title or entry.name),)
    }


@dataclass(frozen=True)
class Versus:
    """One row against another: the pair, read from the side of the first.

    ``verdict``     "better", "worse", "equivalent" or "not known".
    ``difference``  how much better the first is; negative where it is worse.
    ``these``, ``others``  its intervals; None where they are not known.
    ``others_over`` what ``others`` is over, or why it is not known.
    ``ties``        the share of tasks on which both score the same.
    ``p_holm``      of Wilcoxon's test, adjusted for all pairs.
    """

    verdict: str
    difference: float
    these: Interval | None
    others: Interval | None
    others_over: str
    ties: float
    p_holm: float


def versus(comparison: Comparison, first: str, second: str) -> Versus | None:
    """``first`` against ``second``; None where they were not compared."""
    try:
        pair = comparison.pair(first, second)
    except KeyError:
        return None
    swap = pair.first != first
    return Versus(
        OPPOSITE.get(pair.verdict, pair.verdict) if swap else pair.verdict,
        -pair.difference if swap else pair.difference,
        _turned(pair.these, swap),
        _turned(pair.others, swap),
        pair.others_over,
        pair.ties,
        pair.p_holm,
    )


def _turned(interval: Interval | None, swap: bool) -> Interval | None:
    if interval is None or not swap:
        return interval
    return type(interval)(-interval.high, -interval.low)


def _untrained(seconds: float, baseline: bool) -> float:
    """What is not trained over tasks takes no time."""
    return 0.0 if baseline and math.isnan(seconds) else seconds


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
