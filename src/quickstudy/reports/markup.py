"""HTML that is always escaped: these functions alone turn text into markup."""

from __future__ import annotations

import re
from html import escape

from quickstudy.reports.words import visible


class Markup(str):
    """A string that is HTML already; any other string is text and is escaped."""

    __slots__ = ()


Child = str | None
"""Markup, text to be escaped, or None for nothing."""

_VOID = frozenset({"img", "br", "hr", "meta"})


def tag(name: str, /, *children: Child, **attributes: str | int | None) -> Markup:
    """``<name attributes>children</name>``.

    Attributes that are None are left out; a trailing underscore is dropped (``class_``) and inner
    ones become hyphens (``aria_label``).
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            words.append(f'{key}="{escape(visible(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after the other, each escaped unless it is markup."""
    return Markup(
        "".join(c if isinstance(c, Markup) else _escaped(c) for c in children if c is not None)
    )


def breakable(text: str) -> Markup:
    """A name that may be broken into lines after / and _."""
    parts = re.split(r"(?<=[/_])", text)
    return Markup("<wbr>".join(join(part) for part in parts))


def _escaped(text: str) -> str:
    """Control characters, such as those that change the writing direction, become escapes."""
    return "\n".join(escape(visible(line)) for line in text.split("\n"))
