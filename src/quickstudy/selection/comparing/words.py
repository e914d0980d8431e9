"""A comparison as plain text: the ranking, and a sentence for each pair of learners."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import Interval
from quickstudy.evaluation.paired import Pair


def range_of(interval: Interval | None, unit: str, difference: bool = False) -> str:
    """An interval, such as "96.1% to 97.3%"; "not known" for None."""
    if interval is None:
        return "not known"
    write = wording.difference if difference else wording.score
    return f"{write(interval.low, unit)} to {write(interval.high, unit)}"


def p_value(p: float) -> str:
    """For example "p = 0.03" or "p < 0.0001"."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def sentence(pair: Pair) -> str:
    """What is known of a pair, the better one first."""
    first, second, sign = pair.first, pair.second, 1.0
    if pair.difference < 0:
        first, second, sign = second, first, -1.0
    points = " points" if pair.unit == "%" else ""
    these, others = (_turned(each, sign) for each in (pair.these, pair.others))
    verdict = {
        "better": f"{first} is better than {second}",
        "worse": f"{first} is better than {second}",
        "equivalent": f"{first} and {second} are equivalent",
    }.get(pair.verdict, f"{first} and {second}: not known which is better")
    return (
        f"{verdict}: {wording.difference(abs(pair.difference), pair.unit)}{points} "
        f"(these classes {range_of(these, pair.unit, True)}; other trainings, other classes "
        f"{range_of(others, pair.unit, True)}; {p_value(pair.p_holm)} after Holm, "
        f"{round(100 * pair.ties)}% ties)"
    )


def _turned(interval: Interval | None, sign: float) -> Interval | None:
    if interval is None or sign > 0:
        return interval
    return Interval(-interval.high, -interval.low)


def seconds(value: float) -> str:
    """A time in the unit that suits it, "-" where it is not known or nothing was done."""
    if math.isnan(value) or value == 0:
        return "-"
    if value < 1:
        return f"{1000 * value:.{1 if value < 0.01 else 0}f} ms"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
