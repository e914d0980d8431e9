"""Figures of inner steps and learnt rates.

Each function returns a matplotlib figure, as in :mod:`quickstudy.reports.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.reports import style, words
from quickstudy.reports.insights import Adaptation, Rates
from quickstudy.reports.limits import limits_of
from quickstudy.reports.view_types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def step_by_step(adaptation: Adaptation) -> Figure:
    """Query score (above) and support loss (below) after each inner step."""
    from matplotlib.ticker import MaxNLocator

    with style.figure_style():
        figure = style.new_figure(3.2)
        above, below = figure.subplots(2, 1, sharex=True)
        scores = words.in_unit(adaptation.unit) * adaptation.query_score
        above.plot(adaptation.steps, scores, "o-", color=style.ACCENT, markersize=4)
        below.plot(adaptation.steps, adaptation.support_loss, "o-", color=style.MUTED, markersize=4)
        above.set_ylabel(words.axis(f"query {adaptation.score}", adaptation.unit))
        below.set_ylabel("support loss")
        below.set_xlabel("inner step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        above.set_ylim(limits_of(scores.tolist(), adaptation.unit))
        below.set_ylim(limits_of(adaptation.support_loss.tolist(), ""))
        above.margins(x=0.06)
    return figure


def movement(adaptation: Adaptation) -> Figure:
    """How far adaptation changed each layer's weights, and its outputs for the queries.

    There is one dot per inner step, later ones more opaque; the number belongs to the last step.
    Raises ValueError where the states of the inner steps hold no weights.
    """
    if not adaptation.layers:
        raise ValueError(
            "movement: the states of the inner steps hold no weights. Let the learner's trajectory "
            "give states with 'weights' by name, or leave the figure out."
        )
    panels = {"weights": adaptation.weights[1:], "features": adaptation.features[1:]}
    panels = {name: moved for name, moved in panels.items() if np.isfinite(moved).any()}
    with style.figure_style():
        figure = style.new_figure(0.75 + 0.21 * len(adaptation.layers))
        grid = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
        for axes, (name, moved) in zip(grid, panels.items(), strict=False):
            _trails(axes, 100 * moved)
            axes.set_xlabel(f"change of {name} (%)")
        _name_rows(grid[0], adaptation.layers)
    return figure


def _trails(axes: Axes, moved: Array) -> None:
    """One row per layer: a dot per step and the value of the last; rows of NaN stay empty."""
    moved = np.where(np.isfinite(moved), moved, np.nan)
    last, largest = moved[-1], float(np.nanmax(moved))
    rows = np.arange(len(last))
    axes.hlines(rows, 0, last, color=style.LINE, linewidth=1.2)
    for step, values in enumerate(moved, 1):
        final = step == len(moved)
        axes.scatter(values, rows, 26 if final else 15, color=style.ACCENT, linewidths=0,
                     alpha=1.0 if final else 0.15 + 0.5 * step / len(moved), zorder=3)  # fmt: skip
    for row in np.flatnonzero(np.isfinite(last)):
        # At the right edge, where there are no dots.
        axes.annotate(f"{last[row]:.3g}", (0.99, row), va="center", ha="right", fontsize=7.5,
                      xycoords=("axes fraction", "data"), color=style.INK)  # fmt: skip
    axes.set_xlim(0, 1.4 * largest or 1.0)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The first layer at the top; long names are cut on the left, where they differ least."""
    labels = [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def learnt_rates(rates: Rates) -> Figure:
    """Learnt rates of each layer: median, middle half, and the share that is negative."""
    with style.figure_style():
        figure = style.new_figure(0.75 + 0.21 * len(rates.layers))
        axes = figure.subplots()
        rows = np.arange(len(rates.layers))
        axes.axvline(0, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.hlines(rows, rates.low, rates.high, color=style.ACCENT, linewidth=4, alpha=0.35)
        axes.scatter(rates.median, rows, 26, color=style.ACCENT, linewidths=0, zorder=3)
        for row, share in enumerate(rates.negative):
            colour = style.WRONG if share > 0 else style.MUTED
            axes.annotate(f"{100 * share:.0f}% < 0", (1.01, row), va="center",
                          xycoords=("axes fraction", "data"), fontsize=7.5,
                          color=colour)  # fmt: skip
        axes.set_xlabel("learnt rate")
        axes.margins(x=0.08)
        _name_rows(axes, rates.layers)
    return figure
