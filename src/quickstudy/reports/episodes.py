"""Parts of a page about single episodes: images, confusion tables, confused classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from quickstudy.base.words import count
from quickstudy.reports.markup import Markup, breakable, join, tag
from quickstudy.reports.pictures import LARGEST_SIDE, PIXELS_SEEN, data_uri
from quickstudy.reports.view_types import Array, EpisodeView
from quickstudy.reports.words import letter

TASKS_DRAWN = 3
WAYS_DRAWN = 20
WAYS_SIDE_BY_SIDE = 8
ROWS_ENOUGH = 15
SHOTS_DRAWN = 6
MARKUP_LENGTH = 900_000
"""Bounds that keep a page small; the page says what they leave out."""


def task_pictures(views: Sequence[EpisodeView]) -> Markup | None:
    """The first tasks as images; None where the inputs are not images."""
    if not views or views[0].query_images is None:
        return None
    content: list[Markup] = []
    rows = 0
    for index, view in enumerate(views[:TASKS_DRAWN]):
        episode = _episode(index, view)
        if content and sum(map(len, content)) + len(episode) > MARKUP_LENGTH:
            break
        content.append(episode)
        rows += len(view.names)
        if rows >= ROWS_ENOUGH:
            break
    key = tag(
        "p",
        tag("span", tag("i", class_="k-support"), "support: the labelled examples"),
        tag("span", tag("i"), "query, right; below it the probability of the prediction"),
        tag("span", tag("i", class_="k-wrong"), "✗ B: query, wrongly predicted as B"),
        class_="note key",
    )
    return join(key, *content)


def _episode(index: int, view: EpisodeView) -> Markup:
    assert view.query_images is not None
    ways = range(min(len(view.names), WAYS_DRAWN))
    queries = 15 if len(ways) <= 10 else 9
    shots = min(SHOTS_DRAWN, int(np.bincount(view.support_targets).max()))
    # Side by side where a page is wide enough for both, else two support pictures a line.
    columns = shots if shots + queries <= 16 else min(shots, 2)
    left_out = [
        f"{count(len(view.names) - len(ways), 'more class', 'more classes')}"
        if len(view.names) > len(ways)
        else "",
        f"queries beyond the first {queries} of a class"
        if np.bincount(view.query_targets).max() > queries
        else "",
        f"support rows beyond the first {SHOTS_DRAWN} of a class"
        if np.bincount(view.support_targets).max() > SHOTS_DRAWN
        else "",
    ]
    not_drawn = " and ".join(text for text in left_out if text)
    return tag(
        "section",
        tag("h3", f"Task {index + 1}"),
        tag(
            "p",
            f"{int(view.correct.sum())} of {count(len(view.correct), 'query', 'queries')} right.",
            f" Not drawn: {not_drawn}." if not_drawn else None,
            class_="note",
        ),
        tag("ul", *(_way(view, way, queries) for way in ways), class_="ways"),
        class_=f"episode {picture_class(view.query_images)}",
        style=f"--tile: {tile_side(view.query_images)}px; --columns: {columns}",
    )


def _way(view: EpisodeView, way: int, queries: int) -> Markup:
    of_way = view.query_targets == way
    right = int(view.correct[of_way].sum())
    heading = tag(
        "div",
        tag("b", letter(way)),
        tag("span", breakable(view.names[way])),
        tag("span", f"{right} of {int(of_way.sum())} right"),
        class_="way",
    )
    return tag(
        "li",
        heading,
        tag("div", *_support_tiles(view, way), class_="tiles support"),
        tag("div", *_query_tiles(view, way, queries), class_="tiles"),
    )


def _support_tiles(view: EpisodeView, way: int) -> Iterator[Markup]:
    assert view.support_images is not None
    for image in view.support_images[view.support_targets == way][:SHOTS_DRAWN]:
        picture = tag("img", src=data_uri(image), alt=f"Support example of {letter(way)}")
        yield tag("div", picture, class_="tile")


def _query_tiles(view: EpisodeView, way: int, limit: int) -> Iterator[Markup]:
    assert view.query_images is not None
    for row in np.flatnonzero(view.query_targets == way)[:limit]:
        predicted, right = letter(int(view.predicted[row])), bool(view.correct[row])
        percent = f"{100 * view.probability[row]:.0f}%"
        text = f"Query of {letter(way)}, predicted as {predicted} with probability {percent}"
        picture = tag(
            "img",
            src=data_uri(view.query_images[row]),
            alt=f"{text}: {'right' if right else 'wrong'}",
            title=f"predicted as {predicted}: {view.names[view.predicted[row]]} ({percent})",
        )
        caption = tag("span", percent if right else f"✗ {predicted} {percent}")
        yield tag("div", picture, caption, class_="tile" if right else "tile wrong")


def confusion_table(view: EpisodeView) -> Markup:
    """How many queries of each way (row) were predicted as each way (column), in one task.

    It is an HTML table, not a figure, so that it can be read aloud, copied and scrolled.
    """
    counts = view.confusion
    ways = range(len(view.names))
    corner = tag("td", class_="none", style="background: none")
    head = tag("tr", corner, *(_axis_label(view, way, "col") for way in ways))
    body = (
        tag("tr", _axis_label(view, row, "row"), *(_cell(counts, row, column) for column in ways))
        for row in ways
    )
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="confusion")
    side = SMALL_SIDE if len(ways) <= WAYS_SIDE_BY_SIDE else 28
    return tag("div", table, class_=f"scroll {class_of(view)}", style=f"--tile: {side}px")


def _axis_label(view: EpisodeView, way: int, scope: str) -> Markup:
    inner = tag("span", letter(way), class_picture(view, way))
    return tag("th", inner, scope=scope, title=view.names[way])


def _cell(counts: Array, row: int, column: int) -> Markup:
    count = int(counts[row, column])
    if count == 0:
        return tag("td", "·", class_="none")
    # At most 38%: with more colour the text on it would have too little contrast.
    share = 6 + 32 * count / counts[row].sum()
    kind = "right" if row == column else "wrong"
    return tag("td", str(count), class_=kind, style=f"--share: {share:.0f}%")


def confused_pairs(views: Sequence[EpisodeView], shown: int = 6) -> Markup | None:
    """The pairs of classes most often confused within one task; None where all is right.

    A way is a different class in every task, so counts are never added up over tasks.
    """
    pairs = [
        (int(count), view, true, predicted)
        for view in views
        for (true, predicted), count in np.ndenumerate(view.confusion)
        if true != predicted and count > 0
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: -pair[0])
    return tag("ul", *(_pair(*pair) for pair in pairs[:shown]), class_="pairs")


def _pair(count: int, view: EpisodeView, true: int, predicted: int) -> Markup:
    total = int((view.query_targets == true).sum())
    return tag(
        "li",
        class_picture(view, true),
        tag("span", "→", class_="arrow"),
        class_picture(view, predicted),
        tag(
            "span",
            tag("b", f"{count} of {total}"),
            " queries of ",
            breakable(view.names[true]),
            " were predicted as ",
            breakable(view.names[predicted]),
        ),
        class_=f"pair {class_of(view)}",
    )


SMALL_SIDE = 46
"""CSS pixels of the picture of a class."""


def class_picture(view: EpisodeView, way: int) -> Markup | None:
    """The first support image of a way; None without images or support rows."""
    rows = np.flatnonzero(view.support_targets == way)
    if view.support_images is None or not len(rows):
        return None
    return tag("img", src=data_uri(view.support_images[rows[0]], SMALL_SIDE), alt="")


def class_of(view: EpisodeView) -> str | None:
    """The CSS class by which images of a task are enlarged; None where inputs are not images."""
    return None if view.query_images is None else picture_class(view.query_images)


def picture_class(images: Array) -> str:
    """The CSS class of images: small ones are enlarged with sharp pixels, larger ones smoothly."""
    return "pixels" if max(images.shape[-2:]) <= PIXELS_SEEN else "smooth"


def tile_side(images: Array) -> int:
    """CSS pixels of an image: for small ones a multiple of their size, so that edges are sharp."""
    side = max(images.shape[-2:])
    return side * max(1, 64 // side) if side <= LARGEST_SIDE else LARGEST_SIDE
