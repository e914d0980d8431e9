"""The style shared by all figures, and figures as SVG elements of a page.

A figure is drawn in the light colours below and can be saved in any format. In a page each of these
colours becomes a CSS variable, so that the figure follows the page's dark theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quickstudy.base.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1e23"
MUTED = "#5e6670"
LINE = "#dcdfe4"
PAPER = "#ffffff"
ACCENT = "#2b5fb8"
WRONG = "#bd3d0e"

CLASS_COLOURS = (
    "#3f7fd1", "#d9902b", "#2f9e85", "#c4619f", "#8a7be0", "#9a9a2e", "#4fb0d6", "#b5735a",
)  # fmt: skip
"""Distinguishable with any colour vision, on light and dark; classes also have letters."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    WRONG: "var(--wrong)",
}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text: small, selectable, in the page's font
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same layout everywhere
    "font.size": 9.0,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "path.simplify": True,
}

WIDTH = 5.0
"""Inches of every figure: legible at half the width of a page, and at full width on a phone."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Figures made inside have this style; matplotlib's settings are restored afterwards."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(height: float) -> Figure:
    """An empty figure, ``height`` inches high; without pyplot, which would keep it in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def legend_above(axes: Axes, columns: int = 3) -> None:
    """A legend over the plot, where it covers no data."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, labelcolor=INK
    )


def to_svg(figure: Figure, prefix: str, label: str) -> str:
    """``figure`` as an ``<svg>`` element for a page: the same bytes from the same figure.

    ``prefix``  of every id, so that a page can hold several figures: letters, digits, hyphens.
    ``label``   text for screen readers.

    Raises ValueError for any other prefix.
    """
    import matplotlib

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", prefix):
        raise ValueError(
            f"to_svg: prefix must be letters, digits and hyphens; found {shown(prefix)}. "
            "Name the figure, for example 'learning-curves'."
        )
    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"<svg[^>]*>", lambda tag: _open_tag(tag[0], label), svg, count=1).strip()


def _open_tag(tag: str, label: str) -> str:
    """An <svg> tag with the same view box, without a size, and with a label."""
    from html import escape

    box = re.search(r'viewBox="[^"]*"', tag)
    assert box is not None, "matplotlib writes a viewBox"
    return (
        f'<svg {box[0]} role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
