"""What all parts of a page share: a section, a figure, a piece of markup with its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quickstudy.reports.markup import Child, Markup, tag
from quickstudy.reports.style import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def section(title: str, task: str, note: str | None, *parts: Child) -> Markup:
    """A section of the page; ``task`` names the tasks that it is about, where they have a name."""
    heading = tag("h2", f"{title}: {task}" if task else title)
    return tag("section", heading, tag("p", note, class_="note") if note else None, *parts)


def piece(title: str, note: str, drawn: Markup, width: str | None = None) -> Markup:
    """Markup under a title and a note."""
    caption = tag("figcaption", tag("h3", title), tag("p", note, class_="note"))
    return tag("figure", caption, drawn, class_=width)


def figure(drawing: Figure, ids: str, title: str, note: str) -> Markup:
    """A drawing under a title and a note; ``ids`` goes before the ids inside it."""
    return piece(title, note, Markup(to_svg(drawing, ids, f"{title}. {note}")))
