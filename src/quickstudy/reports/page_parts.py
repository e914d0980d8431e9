"""The building blocks of a page: sections, tables, and figures with a title and a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quickstudy.reports.markup import Child, Markup, tag
from quickstudy.reports.style import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def section(title: str, task: str, note: str | None, *parts: Child) -> Markup:
    """A section of the page; ``task`` is the name of the tasks that it shows, "" for none."""
    heading = tag("h2", f"{title}: {task}" if task else title)
    return tag("section", heading, tag("p", note, class_="note") if note else None, *parts)


def captioned(title: str, note: str, content: Markup, width: str | None = None) -> Markup:
    """Markup under a title and a note; ``width`` is a CSS class, such as "wide"."""
    caption = tag("figcaption", tag("h3", title), tag("p", note, class_="note"))
    return tag("figure", caption, content, class_=width)


def figure(drawing: Figure, ids: str, title: str, note: str) -> Markup:
    """A drawing under a title and a note; ``ids`` is the prefix of the ids inside it."""
    return captioned(title, note, Markup(to_svg(drawing, ids, f"{title}. {note}")))


def html_table(rows: Sequence[Mapping[str, object]], kind: str = "rows") -> Markup:
    """A table: a column per key in order of first appearance, a line per row, "–" where it has no
    value; the first column names the lines. ``kind`` is its CSS class."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = (
        tag("tr", *(
            tag("th", str(row.get(head, "–")), scope="row") if place == 0
            else tag("td", str(row.get(head, "–")))
            for place, head in enumerate(heads)
        ))
        for row in rows
    )  # fmt: skip
    return tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *lines),
        class_=kind,
    )
