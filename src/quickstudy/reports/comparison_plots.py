"""Figures of a comparison: scores with both intervals, ranks, score against cost and over shots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from quickstudy.base.extras import optional
from quickstudy.reports import style
from quickstudy.reports.comparison_rows import Row, Score
from quickstudy.reports.limits import limits_of
from quickstudy.reports.words import axis, in_unit, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quickstudy.evaluation.result import Result

SIGNIFICANT = 0.05
"""Level of Holm's p below which two ranks are not joined by a bar."""

_MARKERS = "osD^vP*X"
"""Of curves, one for each colour."""


def scores(rows: Sequence[Row], score: Score) -> Figure:
    """The score of each row with its two intervals, the best on top.

    The thick line is the interval for these classes, the thin one that for other trainings and
    other classes. Baselines that are far from all learners are arrows with a number.

    Raises ValueError where no row has a finite score.
    """
    shown = [row for row in rows if math.isfinite(row.mean)]
    if not shown:
        raise ValueError(
            "scores: at least 1 row must have a finite score; found none. Leave the figure out."
        )
    scale = in_unit(score.unit)
    with style.figure_style():
        figure = style.new_figure(1.0 + 0.26 * len(shown))
        axes = figure.subplots()
        places = list(range(len(shown)))[::-1]
        low, high = _limits_of_scores(shown, score)
        for place, row in zip(places, shown, strict=True):
            mean, colour = scale * row.mean, style.MUTED if row.baseline else style.ACCENT
            if not low <= mean <= high:
                _point_outside(axes, place, (low, high), mean < low, score.text(row.mean))
                continue
            for interval, width in ((row.others, 1.0), (row.these, 3.2)):
                if interval is not None and interval.known:
                    axes.hlines(place, scale * interval.low, scale * interval.high, color=colour,
                                linewidth=width, zorder=2)  # fmt: skip
            axes.plot(mean, place, marker=marker(row), color=colour, markersize=6,
                      markeredgecolor=style.PAPER, linestyle="none", zorder=3)  # fmt: skip
        axes.set_yticks(places, [numbered(row) for row in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.set_xlim(low, high)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis(score.name, score.unit, score.higher_is_better))
        _legend_of_kinds(axes, shown)
    return figure


def _limits_of_scores(rows: Sequence[Row], score: Score) -> tuple[float, float]:
    """Of an axis for learners and their intervals, and for baselines that are not far from them."""
    learners = [row for row in rows if not row.baseline] or rows
    scale = in_unit(score.unit)
    low, high = _ends(learners)
    span = max(high - low, 0.02 if score.unit == "%" else 0.0)
    near = [row for row in rows if row.baseline and low - span <= row.mean <= high + span]
    low, high = _ends([*learners, *near])
    low, high = scale * low, scale * high
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    if score.unit != "%":
        return low - room, high + room
    room = max(room, 1.0)
    return max(low - room, min(0.0, low)), min(high + room, max(100.0, high))


def _ends(rows: Sequence[Row]) -> tuple[float, float]:
    """The lowest and highest of scores and known intervals."""
    known = [i for row in rows for i in (row.these, row.others) if i is not None and i.known]
    means = [row.mean for row in rows]
    return min([*means, *(i.low for i in known)]), max([*means, *(i.high for i in known)])


def _point_outside(
    axes: Axes, place: int, limits: tuple[float, float], below: bool, text: str
) -> None:
    """An arrow to an end of the axis, and the score that lies beyond it."""
    axes.annotate(
        text, (limits[0] if below else limits[1], place), (14 if below else -14, 0),
        textcoords="offset points", ha="left" if below else "right", va="center", fontsize=8.0,
        color=style.MUTED, arrowprops={"arrowstyle": "->", "color": style.MUTED},
    )  # fmt: skip


def critical_difference(rows: Sequence[Row], p: Mapping[frozenset[str], float]) -> Figure:
    """Mean ranks over tasks on a line, the best at the left; a bar joins ranks that do not differ.

    ``p``  adjusted p-values of pairs of names; a missing or undefined one does not tell them apart.

    Needs the extra ``compare`` (scikit-posthocs). Raises ImportError without it, and ValueError for
    fewer than two rows that have a rank.

    Reference: Demšar (2006), Statistical Comparisons of Classifiers over Multiple Data Sets; with
    pairwise Wilcoxon tests in place of Nemenyi's, as in Benavoli, Corani and Mangili (2016).
    """
    ranked = [row for row in rows if math.isfinite(row.rank)]
    if len(ranked) < 2:
        raise ValueError(
            f"critical_difference: needs at least 2 rows with a rank; found {len(ranked)}. Leave "
            "the figure out."
        )
    who = "critical_difference"
    posthocs = optional("scikit_posthocs", "compare", who)
    pandas = optional("pandas", "compare", who)
    labels = {row.name: numbered(row, 15) for row in ranked}
    matrix = pandas.DataFrame(1.0, index=list(labels.values()), columns=list(labels.values()))
    for first, second in combinations(labels, 2):
        value = p.get(frozenset((first, second)), math.nan)
        value = 1.0 if math.isnan(value) else value
        matrix.loc[labels[first], labels[second]] = value
        matrix.loc[labels[second], labels[first]] = value
    with style.figure_style():
        figure = style.new_figure(1.0)
        axes = figure.subplots()
        posthocs.critical_difference_diagram(
            {labels[row.name]: row.rank for row in ranked},
            matrix,
            alpha=SIGNIFICANT,
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
            label_props={"fontsize": 8.0},
            text_h_margin=0.03 * (max(r.rank for r in ranked) - min(r.rank for r in ranked)),
            elbow_props={"color": style.MUTED, "linewidth": 0.8},
            marker_props={"s": 16},
            crossbar_props={"color": style.ACCENT, "linewidth": 3.0},
        )
        axes.grid(visible=False)
        low, high = axes.get_ylim()
        figure.set_figheight(0.5 + 0.2 * (high - low))
    return figure


def over_shots(curves: Mapping[str, Mapping[int, Result]], score: Score) -> Figure:
    """The score of each learner against the number of shots, with 95% intervals over tasks.

    ``curves``  for each label the result at each number of shots.

    Raises ValueError where no curve has two finite scores.
    """
    known = {
        label: {k: r for k, r in sorted(of.items()) if math.isfinite(r.mean)}
        for label, of in curves.items()
    }
    known = {label: of for label, of in known.items() if len(of) > 1}
    if not known:
        raise ValueError(
            "over_shots: a curve needs scores at 2 numbers of shots; found none with them. Leave "
            "the figure out."
        )
    scale, ends = in_unit(score.unit), []
    with style.figure_style():
        figure = style.new_figure(3.2 + 0.2 * math.ceil(len(known) / 2))
        axes = figure.subplots()
        for place, (label, of) in enumerate(known.items()):
            widths = [r.half_width if math.isfinite(r.half_width) else 0.0 for r in of.values()]
            means = [r.mean for r in of.values()]
            ends += [m + s * w for m, w in zip(means, widths, strict=True) for s in (-1, 1)]
            axes.errorbar(
                list(of), [scale * m for m in means], [scale * w for w in widths],
                color=style.CLASS_COLOURS[place % len(style.CLASS_COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)], markersize=4.5, elinewidth=1.0,
                label=short(label, 30),
            )  # fmt: skip
        shots = sorted({k for of in known.values() for k in of})
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(k) for k in shots])
        axes.set_xticks([], minor=True)
        axes.set_ylim(*score_limits(ends, score))
        axes.set_xlabel("shots")
        axes.set_ylabel(axis(score.name, score.unit, score.higher_is_better))
        style.legend_above(axes, columns=2)
    return figure


def short(label: str, most: int) -> str:
    """A label that a figure has room for, which matplotlib does not read as mathematics."""
    text = visible(label)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("$", r"\$")


def numbered(row: Row, most: int = 26) -> str:
    """The number and the label of a row."""
    return f"{row.number}  {short(row.label, most)}"


def marker(row: Row) -> str:
    """A dot for a learner, a square for a baseline."""
    return "s" if row.baseline else "o"


def _legend_of_kinds(axes: Axes, rows: Sequence[Row]) -> None:
    """What dots and squares are."""
    from matplotlib.lines import Line2D

    kinds = {row.baseline: row for row in rows}
    axes.legend(
        handles=[
            Line2D([], [], marker=marker(row), markersize=6, linestyle="none",
                   color=style.MUTED if baseline else style.ACCENT,
                   label="baseline" if baseline else "learner")
            for baseline, row in sorted(kinds.items())
        ],
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2,
        labelcolor=style.INK,
    )  # fmt: skip


def score_limits(values: Sequence[float], score: Score) -> tuple[float, float]:
    """The limits of an axis of scores."""
    scale = in_unit(score.unit)
    return limits_of([round(scale * value, 6) for value in values], score.unit)
