"""Pictures of detection tasks, with the true and the predicted boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quickstudy.base.words import count
from quickstudy.reports.markup import Markup, join, tag
from quickstudy.reports.pictures import data_uri
from quickstudy.reports.view_types import Array, BoxesView, Objects

TASKS_DRAWN = 3
QUERIES_DRAWN = 6
PREDICTED_DRAWN = 12
WIDTH = 240
"""CSS pixels of a picture, and the largest side of the stored image."""


def task_pictures(views: Sequence[BoxesView]) -> Iterator[Markup]:
    """The key, then the first queries of the first tasks."""
    key = (
        tag("span", tag("i", class_="k-true"), "dashed: true box"),
        tag(
            "span",
            tag("i", class_="k-found"),
            "solid: predicted box, the fainter the less confident",
        ),
    )
    yield tag("p", *key, class_="note key")
    if views[0].query_images is None:
        text = "Inputs of these tasks are not images, so boxes are drawn alone."
        yield tag("p", text, class_="note")
    for index, view in enumerate(views[:TASKS_DRAWN]):
        shown = min(QUERIES_DRAWN, len(view.true))
        left = len(view.true) - shown
        yield tag(
            "section",
            tag("h3", f"Task {index + 1}"),
            tag("p", f"Not drawn: {count(left, 'more query', 'more queries')}.", class_="note")
            if left
            else None,
            tag("div", *(_query(view, row) for row in range(shown)), class_="objects"),
            class_="episode",
        )


def _query(view: BoxesView, row: int) -> Markup:
    image = None if view.query_images is None else view.query_images[row]
    height, width = (1, 1) if image is None else image.shape[1:]
    scale = WIDTH / max(height, width)
    size = width * scale, height * scale
    true, predicted = view.true[row], view.predicted[row]
    counts = (
        f"{len(true.boxes)} true, {count(len(predicted.boxes), 'predicted box', 'predicted boxes')}"
    )
    boxes = min(PREDICTED_DRAWN, len(predicted.boxes))
    drawing = tag(
        "svg",
        _picture(image, size),
        *(_box(true, i, view, size) for i in range(len(true.boxes))),
        *(_box(predicted, i, view, size) for i in range(boxes)),
        viewBox=f"-2 -2 {size[0] + 4:g} {size[1] + 4:g}",
        role="img",
        aria_label=counts,
    )
    return tag("div", drawing, tag("p", counts, class_="note"))


def _picture(image: Array | None, size: tuple[float, float]) -> Markup:
    width, height = (f"{side:g}" for side in size)
    if image is None:
        return tag("rect", width=width, height=height, class_="paper")
    return tag("image", href=data_uri(image, WIDTH), width=width, height=height)


def _box(objects: Objects, index: int, view: BoxesView, size: tuple[float, float]) -> Markup:
    """A rectangle with the name of its class: below a true box, above a predicted one."""
    left, top, right, bottom = (
        float(edge) * side for edge, side in zip(objects.boxes[index], size * 2, strict=True)
    )
    kind, confidence = "true", 1.0
    of_class = int(objects.classes[index])
    name = view.names[of_class] if of_class >= 0 else "unknown"
    text_at = min(bottom - 4, size[1] - 4)
    if objects.confidence is not None:
        kind, confidence = "found", float(objects.confidence[index])
        name = f"{name} {100 * confidence:.0f}%"
        text_at = max(top + 12, 12)
    rectangle = tag(
        "rect",
        x=f"{left:.1f}",
        y=f"{top:.1f}",
        width=f"{max(right - left, 0):.1f}",
        height=f"{max(bottom - top, 0):.1f}",
    )
    label = tag("text", name, x=f"{max(left, 0) + 4:.1f}", y=f"{text_at:.1f}")
    return tag("g", join(rectangle, label), class_=kind, opacity=f"{0.35 + 0.65 * confidence:.2f}")
