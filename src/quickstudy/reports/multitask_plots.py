"""Figures of multi-task learning: the gain of each task, and the affinity of tasks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.base.words import count
from quickstudy.reports import style
from quickstudy.reports.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quickstudy.evaluation.judgement import Judgement, OfTask
    from quickstudy.relations.affinity import Affinity

NAMED = 60
"""Most tasks whose names are written beside a figure; more are numbered by rank."""

CELLS_WITH_NUMBERS = 12
"""Most tasks of a heat map whose cells have their value written in them."""

_HELPS, _HARMS, _LIGHT, _DARK = "#2b5fb9", "#bd3d0f", "#fdfdfd", "#1b1e24"
"""Colours of heat maps: no colours of the style, which a page's dark theme would replace."""


def task_gains(judgement: Judgement) -> Figure:
    """The relative gain of each task with its 95% interval, the greatest on top, and Δm.

    Raises ValueError where no task has a gain.
    """
    rows = [row for row in judgement.by_gain if not math.isnan(row.gain)]
    if not rows:
        raise ValueError(
            "task_gains: at least 1 task must have a gain; found none. Leave the figure out."
        )
    with style.figure_style():
        figure = style.new_figure(1.1 + (0.24 * len(rows) if len(rows) <= NAMED else 6.0))
        axes = figure.subplots()
        places = np.arange(len(rows))[::-1]
        gains = 100 * np.array([row.gain for row in rows])
        for which, colour, label in (
            ("gains", style.ACCENT, "gains"), ("hurt", style.WRONG, "hurt"),
            ("other", style.MUTED, "neither shown"),
        ):  # fmt: skip
            chosen = [_kind(row) == which for row in rows]
            if not any(chosen):
                continue
            widths = [100 * row.gain_half_width if math.isfinite(row.gain_half_width) else 0.0
                      for row, kept in zip(rows, chosen, strict=True) if kept]  # fmt: skip
            axes.errorbar(
                gains[chosen], places[chosen], xerr=widths, fmt="o", color=colour, label=label,
                markersize=4.0 if len(rows) <= NAMED else 2.0, elinewidth=1.2, zorder=3,
            )  # fmt: skip
        axes.axvline(0.0, color=style.INK, linewidth=0.9)
        delta, width = 100 * judgement.delta_m, 100 * judgement.half_width
        if math.isfinite(width):
            axes.axvspan(delta - width, delta + width, color=style.ACCENT, alpha=0.15, linewidth=0)
        axes.axvline(
            delta, color=style.ACCENT, linewidth=1.0, linestyle=(0, (4, 3)),
            label=f"Δm {judgement.figure}",
        )  # fmt: skip
        axes.set_xlim(*_limits(gains, delta))
        axes.set_ylim(-0.7, len(rows) - 0.3)
        if len(rows) <= NAMED:
            axes.set_yticks(places, [_short(row.name) for row in rows])
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{count(len(rows), 'task')}, by gain")
        axes.grid(visible=False, axis="y")
        style.legend_above(axes, columns=2)
        axes.set_xlabel("gain over the single task (%)")
    return figure


def _kind(row: OfTask) -> str:
    return "gains" if row.gains else "hurt" if row.hurt else "other"


def _limits(gains: np.ndarray, delta: float) -> tuple[float, float]:
    """Wide enough for every gain; wide intervals are cut off, and at least 2 points are shown."""
    low, high = min(gains.min(), delta, 0.0), max(gains.max(), delta, 0.0)
    room = max(0.25 * (high - low), 1.0)
    return float(low - room), float(high + room)


def affinity_map(affinity: Affinity) -> Figure:
    """A heat map: what the task of a row does for that of a column, in the order of the clusters.

    Blue helps and red harms; the strongest colour is the largest magnitude. The diagonal is empty.
    """
    from matplotlib.colors import LinearSegmentedColormap

    matrix = affinity.matrix.double().numpy()
    order = _order(affinity)
    shown = matrix[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    largest = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    colours = LinearSegmentedColormap.from_list("harm to help", [_HARMS, _LIGHT, _HELPS])
    names = [_short(affinity.names[place]) for place in order]
    tasks = len(names)
    with style.figure_style():
        figure = style.new_figure(style.WIDTH * (0.95 if tasks <= NAMED else 0.85))
        axes = figure.subplots()
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(shown), cmap=colours, vmin=-largest, vmax=largest,
            rasterized=tasks > NAMED,
        )  # fmt: skip
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.grid(visible=False)
        if tasks <= NAMED:
            size = min(8.5, 230 / tasks)
            ticks = np.arange(tasks) + 0.5
            axes.set_xticks(ticks, names, rotation=90, fontsize=size)
            axes.set_yticks(ticks, names, fontsize=size)
        else:
            axes.set(xticks=[], yticks=[])
        if tasks <= CELLS_WITH_NUMBERS:
            _write_cells(axes, shown, largest)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.7, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(affinity.what)
        axes.set_xlabel("… for this task")
        axes.set_ylabel("what this task does …")
    return figure


def _write_cells(axes: object, shown: np.ndarray, largest: float) -> None:
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            strong = abs(value) > 0.6 * largest
            axes.text(  # type: ignore[attr-defined]
                j + 0.5, i + 0.5, f"{value:+.2f}", ha="center", va="center", fontsize=6.5,
                color=_LIGHT if strong else _DARK,
            )  # fmt: skip


def _order(affinity: Affinity) -> list[int]:
    """Places of the tasks, cluster by cluster; as they are where pairs were not measured."""
    try:
        clusters = affinity.clusters()
    except ValueError:
        return list(range(len(affinity.names)))
    return [affinity.names.index(name) for cluster in clusters for name in cluster]


def _short(name: str, most: int = 24) -> str:
    text = visible(name).replace("$", r"\$")  # matplotlib reads $…$ as mathematics
    return text if len(text) <= most else f"{text[: most - 1]}…"
