"""Limits of axes, so that noise does not look like a trend, and what else an axis needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from quickstudy.reports import style
from quickstudy.reports.words import in_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quickstudy.evaluation.result import Result

_LEAST_PERCENT = 20.0
_LEAST_SHARE = 0.1
"""Least range of an axis: percentage points, or a share of the values' magnitude."""

_STROKES = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (2, 2)))


def limits_of(values: Iterable[float], unit: str) -> tuple[float, float]:
    """The limits of an axis for ``values``, in the unit that is shown.

    Percentages end at multiples of ten at least 20 apart: 33.1 … 33.5 gives 20 … 40. Other axes
    span at least a tenth of the magnitude of the values.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if unit == "%":
        # A value of 20 itself starts the axis at 10, so that its line is not on the frame.
        low = 10 * (math.ceil(low / 10) - 1) if low > 0 else 10 * math.floor(low / 10)
        high = 10 * math.ceil(high / 10)
        while high - low < _LEAST_PERCENT:
            low, high = (low - 10, high) if low > 0 else (low, high + 10)
        return low, high
    middle, half = (low + high) / 2, 1.1 * (high - low) / 2
    half = max(half, _LEAST_SHARE / 2 * max(abs(low), abs(high))) or 1.0
    return middle - half, middle + half


def guess_of(result: Result) -> dict[str, float]:
    """The score of the first baseline, which mostly ignores inputs, with a label for curves.

    Validation and training tasks may have other ways, so the label says on which tasks it was.
    """
    found = result.baselines[:1]
    return {f"{b.name}, test tasks": b.mean for b in found if math.isfinite(b.mean)}


def draw_baselines(axes: Axes, baselines: Mapping[str, float], unit: str, upright: bool) -> None:
    """A broken line with a label for the score of each baseline."""
    draw = axes.axvline if upright else axes.axhline
    for place, (name, score) in enumerate(baselines.items()):
        stroke = _STROKES[place % len(_STROKES)]
        draw(in_unit(unit) * score, color=style.WRONG, linewidth=1.2, linestyle=stroke, label=name)


def say_single(axes: Axes, step: float, value: float, text: str) -> None:
    """Write the value beside a point that stands alone, for which an axis has no scale."""
    axes.annotate(text, (step, value), (6, 4), textcoords="offset points", color=style.INK,
                  fontsize=8.5)  # fmt: skip


def set_limits(
    above: Axes,
    below: Axes,
    training: Sequence[Mapping[str, float]],
    validation: Sequence[Mapping[str, float]],
    unit: str,
    baselines: Mapping[str, float],
) -> None:
    """Set the limits of :func:`quickstudy.reports.plots.learning_curves`; ``baselines`` are drawn
    in the axes ``above``."""
    scale = in_unit(unit)
    ends = [row["validation"] + sign * row.get("half_width", 0.0)
            for row in validation for sign in (-1, 1)]  # fmt: skip
    scores = [*(row.get("score", math.nan) for row in training), *ends, *baselines.values()]
    shown = [scale * value for value in scores if math.isfinite(value)]
    if shown:
        above.set_ylim(limits_of(shown, unit))
    losses = [row["loss"] for row in training if math.isfinite(row["loss"])]
    if not losses:
        below.text(0.5, 0.5, "no finite loss was logged", transform=below.transAxes, ha="center",
                   color=style.MUTED)  # fmt: skip
    elif min(losses) > 0 and max(losses) > 30 * min(losses):
        below.set_yscale("log")
    else:
        below.set_ylim(limits_of(losses, ""))
    if len({row["step"] for row in (*training, *validation)}) == 1:  # no range of its own
        below.set_xlim(0, 1.3 * training[0]["step"])
