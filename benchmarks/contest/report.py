"""Results of ``peers.py`` as tables and as a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest.contenders import CONTENDERS, OURS
from contest.work import WORKLOADS
from quickstudy.reports.style import CLASS_COLOURS, figure_style
from quickstudy.reports.tables import markdown_table

Result = dict[str, Any]
Bar = tuple[str, float, float, float]  # contender, ratio of medians, quartiles

_GREY = "#7d8590"  # legible on white and on black: the chart itself has no background
_OWN = "#a5adb6"  # bars of quickstudy's other forms


def load(folder: Path) -> list[Result]:
    """The results in ``folder``, in the order of the workloads; others last."""
    order = list(WORKLOADS)
    found: list[Result] = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    known = [r for name in order for r in found if r["workload"]["name"] == name]
    return known + [r for r in found if r["workload"]["name"] not in order]


def report(results: Sequence[Result]) -> str:
    """Markdown: how many times as fast quickstudy is, then everything about each workload."""
    parts = ["How many times as fast quickstudy is (ratio of medians):\n", summary_table(results)]
    for result in results:
        parts += [f"\n{result['workload']['title']}\n", table(result), *_missing(result)]
    return "\n".join(parts)


def summary_table(results: Sequence[Result]) -> str:
    """A line for each workload, a column for each contender."""
    names = [c.name for c in CONTENDERS if c.name != OURS]
    rows = []
    for result in results:
        by_name = {row["contender"]: row for row in _timed(result)}
        ratios = {n: _ratio(by_name[n]) if n in by_name else None for n in names}
        rate = by_name[OURS]["tasks_per_second"] if OURS in by_name else None
        rows.append(
            {"workload": result["workload"]["title"], "tasks/s": rate and _short(rate)} | ratios
        )
    return markdown_table(rows)


def table(result: Result) -> str:
    """A line for each contender that was timed."""
    return markdown_table([_line(row) for row in _timed(result)] or [{"contender": None}])


def _line(row: dict[str, Any]) -> dict[str, object]:
    faster = row.get("quickstudy_is_faster")
    spread = f" ({faster['quartile_1']:.2f} to {faster['quartile_3']:.2f})" if faster else ""
    own = row["contender"] == OURS
    used = row["peak_mib"] and row["peak_mib"] - row["before_mib"]
    return {
        "contender": row["contender"],
        "tasks/s": _short(row["tasks_per_second"]),
        "quickstudy is faster": None if own else f"{_ratio(row)}{spread}",
        "memory, MiB": used,
        "error in float64": _scientific(row["errors"].get("float64")),
        "in float32": _scientific(row["errors"].get("float32")),
    }


def _missing(result: Result) -> list[str]:
    reasons = [f"{r['contender']} ({r['missing']})" for r in result["contenders"] if "missing" in r]
    return [f"Not measured: {'; '.join(reasons)}.\n"] if reasons else []


def _timed(result: Result) -> list[dict[str, Any]]:
    return [row for row in result["contenders"] if "missing" not in row]


def _ratio(row: dict[str, Any]) -> str | None:
    faster = row.get("quickstudy_is_faster")
    return f"{faster['ratio_of_medians']:.2f}" if faster else None


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _scientific(error: float | str | None) -> str | None:
    """The error, or the reason why there is none."""
    return f"{error:.0e}" if isinstance(error, float) else error


def chart(results: Sequence[Result], file: Path) -> None:
    """Bars of how many times as fast quickstudy is, on a logarithmic axis; ``file`` ends in .svg
    or .png."""
    import matplotlib
    from matplotlib.figure import Figure

    peers = [c.name for c in CONTENDERS if c.package != "quickstudy"]
    colours = dict(zip(peers, CLASS_COLOURS, strict=True))
    groups = [(r["workload"]["title"], _bars(r)) for r in results]
    groups = [(title, bars) for title, bars in groups if bars]
    lines = sum(len(bars) + 1.6 for _, bars in groups)
    settings: dict[Any, Any] = {
        "text.color": _GREY, "axes.labelcolor": _GREY, "xtick.color": _GREY,
        "axes.edgecolor": _GREY, "grid.color": f"{_GREY}55", "svg.hashsalt": "peers",
    }  # fmt: skip
    with figure_style(), matplotlib.rc_context(settings):
        # fmt: off
        figure = Figure(figsize=(7.2, 0.7 + 0.17 * lines))
        axes = figure.subplots()
        y = 0.0
        for title, bars in groups:
            axes.text(0.0, y, title, transform=axes.get_yaxis_transform(), va="center",
                      fontsize=8.5, fontweight="bold")
            for bar in bars:
                y += 1
                _draw(axes, y, bar, colours.get(bar[0], _OWN))
            y += 1.6
        axes.axvline(1, color=_GREY, linewidth=1)
        _logarithmic(axes, [ratio for _, bars in groups for _, ratio, _, _ in bars])
        axes.set(ylim=(y - 0.6, -1), yticks=[],
                 xlabel="quickstudy is so many times as fast; to the left of 1, slower")
        # fmt: on
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=150)


def _draw(axes: Any, y: float, bar: Bar, colour: str) -> None:
    """A bar from ratio 1: to the right, quickstudy is faster."""
    name, ratio, low, high = bar
    axes.barh(y, ratio - 1, left=1, height=0.8, color=colour)
    axes.plot((low, high), (y, y), color=_GREY, linewidth=1.2)
    digits = 2 if ratio < 1 else 1 if ratio < 10 else 0
    place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{ratio:.{digits}f}  {name}", (max(ratio, high, 1), y), **place, fontsize=7.5)


def _bars(result: Result) -> list[Bar]:
    rows = [r for r in _timed(result) if r["contender"] != OURS and "quickstudy_is_faster" in r]
    return [(r["contender"], *r["quickstudy_is_faster"].values()) for r in rows]


def _logarithmic(axes: Any, ratios: Sequence[float]) -> None:
    """A logarithmic axis with room for names to the right of the longest bar."""
    ticks = [0.5, 1, 2, 4, 8, 16, 32, 64, 128]
    low, high = min([0.8, *ratios]) * 0.9, max([2.0, *ratios])
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high * (high / low) ** 0.45)
    shown = [t for t in ticks if low <= t <= high * 1.5]
    axes.set_xticks(shown, [f"{t:g}" for t in shown])
    axes.spines[["left"]].set_visible(False)
