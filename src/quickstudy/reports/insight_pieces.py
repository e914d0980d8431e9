"""Parts of a page about attention and about the support rows nearest to a query."""

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
"""Up to this many support rows have a picture each; with more there is one per class."""

MAP_WIDTH, MAP_HEIGHT = 400, 460
"""Approximate CSS pixels of an attention map; cells have a minimal size, to be visible."""

HEAT = (63, 127, 209)
"""The colour of attention; its opacity is the share, so zero looks like the background."""


def own_class_share(shares: Array, view: EpisodeView) -> tuple[float, float]:
    """The mean share of attention (q, s) on a query's own class, and the share by chance."""
    same = view.query_targets[:, None] == view.support_targets
    return float((shares * same).sum(1).mean()), float(same.mean())


def attention_table(shares: Array, view: EpisodeView) -> Markup:
    """Attention (q, s) in one picture for each class of queries (rows) and support (columns).

    Rows of a picture are queries, wrongly predicted ones last; its columns are support rows. It is
    a table so that it can be read aloud: each picture has its share of attention as a text.
    """
    present = np.unique(view.support_targets)
    columns = {int(way): np.flatnonzero(view.support_targets == way) for way in present}
    side = _clamped(MAP_WIDTH / shares.shape[1], 7, SMALL_SIDE)
    row_height = _clamped(MAP_HEIGHT / shares.shape[0], 2, 12)
    heat = _heat(shares)
    head = (_support_head(view, way, rows, side) for way, rows in columns.items())
    lines = []
    for way in np.unique(view.query_targets):
        queries = np.flatnonzero(view.query_targets == way)
        queries = queries[np.argsort(~view.correct[queries], kind="stable")]
        wrong = int((~view.correct[queries]).sum())
        cells = (
            tag("td", _block(heat[queries][:, rows], shares[queries][:, rows], side, row_height))
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
    """Whether rows of a view can be sorted by input: inputs are single numbers."""
    return isinstance(view, RegressionView) and view.query_inputs is not None


def attention_picture(shares: Array, view: View) -> Markup:
    """Attention (q, s) of a task without classes: rows are queries, columns support rows.

    Both are sorted by input where inputs are single numbers.
    """
    if isinstance(view, RegressionView) and view.query_inputs is not None:
        assert view.support_inputs is not None
        shares = shares[np.argsort(view.query_inputs)][:, np.argsort(view.support_inputs)]
    side = _clamped(MAP_WIDTH / shares.shape[1], 7, SMALL_SIDE)
    height = _clamped(MAP_HEIGHT / shares.shape[0], 2, 12)
    return tag("div", _block(_heat(shares), shares, side, height), class_="scroll attention")


def _clamped(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))


def _support_head(view: EpisodeView, way: int, rows: Array, side: int) -> Markup:
    """The letter of a class above pictures of its support rows, one for each column."""
    images = view.support_images
    if images is not None and len(images) <= ROWS_PICTURED:
        images_of_rows = [tag("img", src=data_uri(images[row], SMALL_SIDE), alt="") for row in rows]
        pictures = tag("span", *images_of_rows, class_="columns")
    else:
        width = min(len(rows) * side, SMALL_SIDE)
        picture = class_picture(view, way)
        pictures = tag("span", picture, class_="columns", style=f"--tile: {width}px")
    return tag("th", letter(way), pictures, scope="col", title=view.names[way])


def _heat(shares: Array) -> Array:
    """Shares as opacities: 1 for the largest, but uniform attention over many rows stays light."""
    shares = np.nan_to_num(shares)  # a learner that diverged still gets a report
    return np.asarray(shares / max(float(shares.max()), min(1.0, 4 / shares.shape[1])))


def _block(heat: Array, shares: Array, side: int, row_height: int) -> Markup:
    pixels = np.empty((4, *heat.shape))
    pixels[:3] = np.array(HEAT)[:, None, None] / 255
    pixels[3] = heat
    percent = f"{100 * shares.sum(1).mean():.0f}%"
    rows, columns = heat.shape
    return tag(
        "img",
        src=data_uri(pixels, max(heat.shape)),
        alt=f"{percent} of the attention",
        title=percent,
        style=f"width: {columns * side}px; height: {rows * row_height}px",
    )


def nearest_list(found: tuple[Nearest, ...], view: EpisodeView, by_attention: bool) -> Markup:
    """Queries with their nearest support rows: classes, and shares of attention or distances."""
    verb, number = (" attends most to", "{:.0%}") if by_attention else (" is nearest to", "{:.3g}")
    lines = (tag("li", *_neighbours(one, view, verb, number), class_="neighbours") for one in found)
    style = f"--tile: {SMALL_SIDE}px"
    return tag("ul", *lines, class_=f"pairs {class_of(view) or ''}", style=style)


def _neighbours(one: Nearest, view: EpisodeView, verb: str, number: str) -> Iterator[Markup]:
    true, predicted = int(view.query_targets[one.query]), int(view.predicted[one.query])
    right = bool(view.correct[one.query])
    percent = f"{100 * view.probability[one.query]:.0f}%"
    caption = f"{letter(true)} {percent}" if right else f"✗ {letter(predicted)} {percent}"
    text = f"Query of {letter(true)}, predicted as {letter(predicted)}"
    yield _tile(view.query_images, one.query, caption, text, "tile" if right else "tile wrong")
    truth = "correctly predicted as" if right else f"of {letter(true)}, predicted as"
    yield tag("span", tag("b", f"{truth} {letter(predicted)}"), verb, class_="said")
    for row, by in zip(one.support, one.by, strict=True):
        way = int(view.support_targets[row])
        caption, text = f"{letter(way)} {number.format(by)}", f"Support example of {letter(way)}"
        yield _tile(view.support_images, int(row), caption, text, "tile")


def _tile(images: Array | None, row: int, caption: str, text: str, kind: str) -> Markup:
    picture = None
    if images is not None:
        picture = tag("img", src=data_uri(images[row], SMALL_SIDE), alt=text)
    return tag("div", picture, tag("span", caption), class_=kind)
