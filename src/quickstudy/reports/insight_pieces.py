"""Pieces of a page about what a learner looked at: its attention, the neighbours of an answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quickstudy.reports.episodes import SMALL_SIDE, class_of, class_picture
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.neighbours import Nearest
from quickstudy.reports.pictures import data_uri
from quickstudy.reports.view_types import Array, EpisodeView, RegressionView, View
from quickstudy.reports.words import letter

ROWS_PICTURED = 25
"""Up to so many support rows each has its picture; beyond, there is one for each class."""

MAP_WIDTH, MAP_HEIGHT = 400, 460
"""CSS pixels of an attention map, about; a cell is never smaller than it can be seen."""

HEAT = (63, 127, 209)
"""Laid on in shares of its opacity, so that the paper, light or dark, is the zero."""


def own_class_share(shares: Array, view: EpisodeView) -> tuple[float, float]:
    """How much of their attention (q, s) queries give to their own class, and would by chance."""
    same = view.query_targets[:, None] == view.support_targets
    return float((shares * same).sum(1).mean()), float(same.mean())


def attention_table(shares: Array, view: EpisodeView) -> Markup:
    """Attention (q, s) in one picture for each class of queries (rows) and support (columns).

    Rows of a picture are queries, those answered wrongly last; its columns are support rows. A
    table, so that it can be read aloud: each picture says what share of attention it holds.
    """
    shown = np.unique(view.support_targets)
    columns = {int(way): np.flatnonzero(view.support_targets == way) for way in shown}
    side = _between(MAP_WIDTH / shares.shape[1], 7, SMALL_SIDE)
    row_height = _between(MAP_HEIGHT / shares.shape[0], 2, 12)
    heat = _heat(shares)
    head = (_support_head(view, way, rows, side) for way, rows in columns.items())
    lines = []
    for way in np.unique(view.query_targets):
        asked = np.flatnonzero(view.query_targets == way)
        asked = asked[np.argsort(~view.correct[asked], kind="stable")]
        wrong = int((~view.correct[asked]).sum())
        cells = (
            tag("td", _block(heat[asked][:, rows], shares[asked][:, rows], side, row_height))
            for rows in columns.values()
        )
        name = tag("th", letter(int(way)), scope="row", title=view.names[way])
        lines.append(tag("tr", name, *cells, tag("td", f"{wrong} ✗" if wrong else None)))
    table = tag(
        "table",
        tag("thead", tag("tr", tag("td"), *head, tag("td"))),
        tag("tbody", *lines),
        class_="attention",
    )
    return tag("div", table, class_=f"scroll {class_of(view) or ''}", style=f"--tile: {side}px")


def sorted_by_input(view: View) -> bool:
    """Whether rows of a view have an order of their own: inputs that are single numbers."""
    return isinstance(view, RegressionView) and view.query_inputs is not None


def attention_picture(shares: Array, view: View) -> Markup:
    """Attention (q, s) of a task without classes: rows are queries, columns support rows.

    Both are sorted by input where inputs are single numbers.
    """
    if isinstance(view, RegressionView) and view.query_inputs is not None:
        assert view.support_inputs is not None
        shares = shares[np.argsort(view.query_inputs)][:, np.argsort(view.support_inputs)]
    side = _between(MAP_WIDTH / shares.shape[1], 7, SMALL_SIDE)
    height = _between(MAP_HEIGHT / shares.shape[0], 2, 12)
    return tag("div", _block(_heat(shares), shares, side, height), class_="scroll attention")


def _between(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))


def _support_head(view: EpisodeView, way: int, rows: Array, side: int) -> Markup:
    """The letter of a class over pictures of its support rows, one over each column."""
    images = view.support_images
    if images is not None and len(images) <= ROWS_PICTURED:
        drawn = [tag("img", src=data_uri(images[row], SMALL_SIDE), alt="") for row in rows]
        pictures = tag("span", *drawn, class_="columns")
    else:
        width = min(len(rows) * side, SMALL_SIDE)
        picture = class_picture(view, way)
        pictures = tag("span", picture, class_="columns", style=f"--tile: {width}px")
    return tag("th", letter(way), pictures, scope="col", title=view.names[way])


def _heat(shares: Array) -> Array:
    """Shares as opacities: full at the largest, but even attention over many rows stays light."""
    shares = np.nan_to_num(shares)  # a learner that diverged still gets its report
    return np.asarray(shares / max(float(shares.max()), min(1.0, 4 / shares.shape[1])))


def _block(heat: Array, shares: Array, side: int, row_height: int) -> Markup:
    pixels = np.empty((4, *heat.shape))
    pixels[:3] = np.array(HEAT)[:, None, None] / 255
    pixels[3] = heat
    said = f"{100 * shares.sum(1).mean():.0f}%"
    rows, columns = heat.shape
    return tag(
        "img",
        src=data_uri(pixels, max(heat.shape)),
        alt=f"{said} of the attention",
        title=said,
        style=f"width: {columns * side}px; height: {rows * row_height}px",
    )


def nearest_list(found: tuple[Nearest, ...], view: EpisodeView, by_attention: bool) -> Markup:
    """Queries, each with its nearest support rows, their classes, and shares or distances."""
    verb, number = (" looked most at", "{:.0%}") if by_attention else (" lies nearest to", "{:.3g}")
    lines = (tag("li", *_neighbours(one, view, verb, number), class_="neighbours") for one in found)
    style = f"--tile: {SMALL_SIDE}px"
    return tag("ul", *lines, class_=f"pairs {class_of(view) or ''}", style=style)


def _neighbours(one: Nearest, view: EpisodeView, verb: str, number: str) -> Iterator[Markup]:
    true, called = int(view.query_targets[one.query]), int(view.predicted[one.query])
    right = bool(view.correct[one.query])
    percent = f"{100 * view.probability[one.query]:.0f}%"
    caption = f"{letter(true)} {percent}" if right else f"✗ {letter(called)} {percent}"
    said = f"Query of {letter(true)}, called {letter(called)}"
    yield _tile(view.query_images, one.query, caption, said, "tile" if right else "tile wrong")
    truth = "rightly called" if right else f"of {letter(true)}, called"
    yield tag("span", tag("b", f"{truth} {letter(called)}"), verb, class_="said")
    for row, by in zip(one.support, one.by, strict=True):
        way = int(view.support_targets[row])
        caption, said = f"{letter(way)} {number.format(by)}", f"Support example of {letter(way)}"
        yield _tile(view.support_images, int(row), caption, said, "tile")


def _tile(images: Array | None, row: int, caption: str, said: str, kind: str) -> Markup:
    picture = None
    if images is not None:
        picture = tag("img", src=data_uri(images[row], SMALL_SIDE), alt=said)
    return tag("div", picture, tag("span", caption), class_=kind)
