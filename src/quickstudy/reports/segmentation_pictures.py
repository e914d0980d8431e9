"""Pictures of segmentation tasks: image, true classes and predicted classes side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.pictures import data_uri
from quickstudy.reports.style import CLASS_COLOURS
from quickstudy.reports.view_types import Array, PixelsView

TASKS_DRAWN = 3
QUERIES_DRAWN = 6
SHOTS_DRAWN = 3
TILE = 112
"""CSS pixels of a picture, and the largest side of the stored image."""

COLOURS = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASS_COLOURS]) / 255
OPACITY = 0.6


def task_pictures(views: Sequence[PixelsView]) -> Iterator[Markup]:
    """The key of colours, then the first tasks."""
    if views[0].query_images is None:
        text = "Inputs of these tasks are not images, so classes are drawn on white."
        yield tag("p", text, class_="note")
    for index, view in enumerate(views[:TASKS_DRAWN]):
        yield _task(index, view)


def _task(index: int, view: PixelsView) -> Markup:
    shots = min(SHOTS_DRAWN, len(view.support_targets))
    queries = min(QUERIES_DRAWN, len(view.query_targets))
    supports = (_support(view, row) for row in range(shots))
    tiles = (_query(view, row) for row in range(queries))
    counts = len(view.query_targets) - queries, len(view.support_targets) - shots
    kinds = zip(counts, ("queries", "support rows"), strict=True)
    left_out = [f"{count} more {kind}" for count, kind in kinds if count]
    return tag(
        "section",
        tag("h3", f"Task {index + 1}"),
        tag("p", f"Not drawn: {' and '.join(left_out)}.", class_="note") if left_out else None,
        _key(view),
        tag("div", *supports, *tiles, class_="masks"),
        class_=f"episode {'pixels' if max(view.query_targets.shape[1:]) <= 32 else 'smooth'}",
        style=f"--tile: {TILE}px",
    )


def _key(view: PixelsView) -> Markup:
    present = set(np.unique(view.query_targets)) | set(np.unique(view.predicted))
    present |= set(np.unique(view.support_targets))
    names = (
        tag("span", tag("i", style=f"background: {CLASS_COLOURS[c % len(CLASS_COLOURS)]}"), name)
        for c, name in enumerate(view.names)
        if c in present
    )
    return tag("p", *names, class_="note key")


def _support(view: PixelsView, row: int) -> Markup:
    image, mask = _row(view.support_images, row), view.support_targets[row]
    return tag(
        "div",
        _tile(_plain(image, mask), "support", "Support picture"),
        _tile(_overlaid(image, mask), "its classes", "The classes of its pixels"),
        class_="group support",
    )


def _query(view: PixelsView, row: int) -> Markup:
    image = _row(view.query_images, row)
    true, predicted = view.query_targets[row], view.predicted[row]
    right = float((predicted == true)[true >= 0].mean())
    return tag(
        "div",
        _tile(_plain(image, true), "query", "Query picture"),
        _tile(_overlaid(image, true), "true", "True classes of its pixels"),
        _tile(
            _overlaid(image, predicted),
            f"{100 * right:.0f}% of pixels right",
            f"Predicted classes of its pixels, {100 * right:.0f}% right",
        ),
        class_="group",
    )


def _tile(image: Array, caption: str, text: str) -> Markup:
    return tag("div", tag("img", src=data_uri(image, TILE), alt=text), tag("span", caption),
               class_="tile")  # fmt: skip


def _row(images: Array | None, row: int) -> Array | None:
    return None if images is None else images[row]


def _plain(image: Array | None, mask: Array) -> Array:
    """The image (3, height, width) in the size of the mask, on white; white without an image."""
    if image is None:
        return np.ones((3, *mask.shape))
    image = np.asarray(image, dtype=np.float64)
    colour = image[:-1] if len(image) in (2, 4) else image
    if len(image) in (2, 4):
        colour = image[-1] * colour + 1 - image[-1]
    colour = np.broadcast_to(colour, (3, *image.shape[1:]))
    if colour.shape[1:] == mask.shape:
        return colour
    pixels = (np.clip(colour, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    resized = Image.fromarray(pixels).resize(
        (mask.shape[1], mask.shape[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(resized).transpose(2, 0, 1) / 255


def _overlaid(image: Array | None, mask: Array) -> Array:
    """The image in grey under the colours of its classes."""
    under = _plain(image, mask).mean(0)
    colours = COLOURS[np.maximum(mask, 0) % len(COLOURS)].transpose(2, 0, 1)
    opacity = OPACITY * (mask >= 0)
    return np.asarray(opacity * colours + (1 - opacity) * under)
