"""Figures of score against cost: training time, time of one adaptation, size and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quickstudy.base.words import in_bytes, in_thousands
from quickstudy.reports import style
from quickstudy.reports.comparison_plots import marker, score_limits
from quickstudy.reports.comparison_rows import Row, Score
from quickstudy.reports.words import axis, duration, in_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANGLES = [math.pi * k / 4 for k in (2, 0, 4, 6, 1, 3, 7, 5)]
"""Directions from a point to its number, the preferred one first: above, right, left, below."""

_POWERS = tuple(m * 10.0**k for k in range(13) for m in (1, 3))
_TIMES = (
    *(m * 10.0**k for k in range(-7, 2) for m in (1, 3)),
    *(60.0 * m for m in (1, 3, 10, 30)),
    *(3600.0 * m for m in (1, 3, 10, 30, 100, 300, 1000)),
)
"""Where axes have ticks: sizes and numbers; seconds."""

_AXES_POINTS = (310.0, 190.0)
"""About the size of the axes, in points; it is known exactly only when a figure is drawn."""


def _time(seconds: float) -> str:
    return duration(seconds).removesuffix(" 0 s").removesuffix(" 0 min")


@dataclass(frozen=True)
class Cost:
    """What a learner costs: its ``name``, the value of a row, how to write one, and ticks."""

    name: str
    note: str
    of: Callable[[Row], float]
    write: Callable[[float], str]
    steps: tuple[float, ...]


COSTS = (
    Cost(
        "training time",
        "Time of one training on the clock; 0 for what is not trained over tasks.",
        lambda row: row.seconds,
        _time,
        _TIMES,
    ),
    Cost(
        "time of one adaptation",
        "Median time in which it learns from one support set.",
        lambda row: row.adaptation,
        _time,
        _TIMES,
    ),
    Cost(
        "size", "Bytes of parameters and buffers.", lambda row: float(row.bytes), in_bytes, _POWERS
    ),
    Cost(
        "parameters",
        "Numbers in the parameters.",
        lambda row: float(row.parameters),
        in_thousands,
        _POWERS,
    ),
)
"""In the order in which they are shown."""


def against_cost(rows: Sequence[Row], score: Score, cost: Cost) -> Figure:
    """The score of each row against what it costs, and the front of those that no other beats.

    Baselines off that front are not drawn, since they lie far below the learners. The axis of costs
    is logarithmic, with those of nothing at its left end, under "0". Raises
    ValueError where fewer than two rows have a finite score and a known cost, or none costs
    anything.
    """
    from matplotlib.ticker import MaxNLocator

    shown = [row for row in rows if math.isfinite(row.mean) and math.isfinite(cost.of(row))]
    shown = _without_beaten_baselines(shown, score, cost)
    values = [cost.of(row) for row in shown]
    if len(shown) < 2 or not any(values):
        raise ValueError(
            f"against_cost: needs 2 rows with a score and a {cost.name}, one above 0; found "
            f"{len(shown)} rows. Leave the figure out."
        )
    scale = in_unit(score.unit)
    with style.figure_style():
        figure = style.new_figure(3.3)
        axes = figure.subplots()
        nothing = _set_costs(axes, values, cost)
        x = [value or nothing for value in values]
        y = [scale * row.mean for row in shown]
        best = front(values, [row.mean for row in shown], score.higher_is_better)
        axes.plot([x[i] for i in best], [y[i] for i in best], color=style.ACCENT, linewidth=1.2,
                  drawstyle="steps-post", zorder=1)  # fmt: skip
        for place, row in enumerate(shown):
            colour = style.ACCENT if place in best else style.MUTED
            axes.plot(x[place], y[place], marker=marker(row), color=colour, markersize=6,
                      markeredgecolor=style.PAPER, linestyle="none",
                      zorder=4 if place in best else 3)  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        axes.set_ylim(*score_limits([row.mean for row in shown], score))
        axes.set_ylabel(axis(score.name, score.unit, score.higher_is_better))
        axes.set_xlabel(cost.name)
        _write_numbers(axes, x, y, shown, best)
    return figure


def _without_beaten_baselines(rows: Sequence[Row], score: Score, cost: Cost) -> list[Row]:
    best = front([cost.of(row) for row in rows], [row.mean for row in rows], score.higher_is_better)
    return [row for place, row in enumerate(rows) if place in best or not row.baseline]


def front(costs: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Places of the points that no other beats (the Pareto front), in the order of costs.

    Another beats a point that costs no less and scores no better, and is not equal to it. A point
    with a NaN is never on the front.
    """
    sign = 1.0 if higher_is_better else -1.0
    points = sorted(
        (cost, -sign * value, place)
        for place, (cost, value) in enumerate(zip(costs, values, strict=True))
        if not (math.isnan(cost) or math.isnan(value))
    )
    found: list[int] = []
    last = (math.nan, math.inf)
    for cost, loss, place in points:
        if loss < last[1] or (cost, loss) == last:
            found.append(place)
            last = cost, loss
    return found


def _set_costs(axes: Axes, values: Sequence[float], cost: Cost) -> float:
    """A logarithmic axis for ``values``; the place of those that are 0."""
    positive = [value for value in values if value > 0]
    low, high = min(positive) / 1.6, max(positive) * 1.6
    if high / low < 12:  # a narrower axis has no two ticks, and makes noise look large
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(12), middle * math.sqrt(12)
    free = len(positive) == len(values)
    nothing: float = low / (high / low) ** 0.12
    first = low * (high / low) ** 0.05 if free else low  # no tick on the other axis
    ticks = [step for step in cost.steps if first <= step <= high]
    ticks = ticks[:: math.ceil(len(ticks) / 5)]
    names = [cost.write(tick) for tick in ticks]
    if not free:
        ticks, names = [nothing, *ticks], ["0", *names]
        axes.axvline(low, color=style.LINE, linewidth=0.7, linestyle=(0, (2, 3)))
    axes.set_xscale("log")
    axes.set_xlim(low if free else nothing / (high / low) ** 0.06, high)
    axes.set_xticks(ticks, names)
    axes.set_xticks([], minor=True)
    return nothing


def _write_numbers(
    axes: Axes, x: Sequence[float], y: Sequence[float], rows: Sequence[Row], best: Sequence[int]
) -> None:
    """The number of each row beside its point, where it is farthest from points and numbers."""
    shares = (axes.transScale + axes.transLimits).transform(list(zip(x, y, strict=True)))
    points = shares * _AXES_POINTS
    taken = [(float(across), float(up)) for across, up in points]
    for place, row in enumerate(rows):
        own, others = taken[place], [*taken[:place], *taken[place + 1 :]]
        spots = [(own[0] + 8 * math.cos(a), own[1] + 8 * math.sin(a)) for a in _ANGLES]
        free = [min([14.0, *(math.dist(spot, each) for each in others)]) for spot in spots]
        spot = spots[free.index(max(free))]
        taken.append(spot)
        axes.annotate(
            str(row.number), (x[place], y[place]), (spot[0] - own[0], spot[1] - own[1]),
            textcoords="offset points", ha="center", va="center_baseline", fontsize=8.0,
            color=style.INK if place in best else style.MUTED, zorder=2,
            bbox={"facecolor": style.PAPER, "linewidth": 0, "pad": 0.6},
        )  # fmt: skip
