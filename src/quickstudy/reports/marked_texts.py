"""Texts with the true and the predicted answer marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quickstudy.base.words import count
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.view_types import SpansView

TASKS_DRAWN = 3
ROWS_DRAWN = 8


def task_pictures(views: Sequence[SpansView]) -> Iterator[Markup]:
    """The first texts of the first tasks."""
    yield tag(
        "p",
        tag("span", tag("i", class_="k-missed"), "of the answer, but not predicted"),
        tag("span", tag("i", class_="k-wrong"), "✗ predicted, but not of the answer"),
        tag("span", "✓ both"),
        class_="note key",
    )
    for index, view in enumerate(views[:TASKS_DRAWN]):
        right = int((view.predicted == view.true).all(-1).sum())
        note = f"Right throughout: {right} of {count(len(view.true), 'text')}."
        if len(view.true) > ROWS_DRAWN:
            note += f" Not shown: {count(len(view.true) - ROWS_DRAWN, 'more text')}."
        yield tag(
            "section",
            tag("h3", f"Task {index + 1}"),
            tag("p", note, class_="note"),
            tag("ol", *(_line(view, row) for row in range(len(view.true))[:ROWS_DRAWN]),
                class_="sequences"),
            class_="episode",
        )  # fmt: skip


def _line(view: SpansView, row: int) -> Markup:
    """One text; without its words, the numbers of those that either span has."""
    true, predicted = (
        {*range(int(span[0]), int(span[1]) + 1)} for span in (view.true[row], view.predicted[row])
    )
    if view.texts is None:
        words = {place: f"word {place + 1}" for place in sorted(true | predicted)}
    else:
        words = dict(enumerate(view.texts[row].split(" ")))
    shown = (_word(word, place in true, place in predicted) for place, word in words.items())
    return tag("li", tag("p", *shown))


def _word(word: str, true: bool, predicted: bool) -> Markup:
    if true and predicted:
        return tag("span", f"✓ {word}", class_="right")
    kind = "wrong" if predicted else "missed" if true else None
    return tag("span", f"{'✗ ' if predicted else ''}{word}", class_=kind)
