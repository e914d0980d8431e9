"""What every page has: the HTML document around it, and the section on how to reproduce it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Protocol

from quickstudy.reports.markup import Child, Markup, join, tag


class Reproducible(Protocol):
    """How something was made; see :class:`quickstudy.reports.page.RunFacts`."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The whole configuration, any JSON."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of programs by name."""

    @property
    def command(self) -> str:
        """The command that started it."""

    @property
    def commit(self) -> str:
        """The commit of the code, "" where unknown."""


class Titled(Protocol):
    """What stands at the top of a page; see :class:`quickstudy.reports.page.RunFacts`."""

    @property
    def title(self) -> str:
        """Of the page."""

    @property
    def subtitle(self) -> str:
        """Below it, "" for none."""

    @property
    def commit(self) -> str:
        """The commit of the code, "" where unknown."""

    @property
    def created(self) -> str:
        """Date and time, "" to leave them out."""


def header(facts: Titled, kind: str, *parts: Child) -> Markup:
    """The top of a page: the ``kind`` of report, title, date and commit, then ``parts``."""
    made = " · ".join(t for t in (facts.created, facts.commit and f"commit {facts.commit}") if t)
    return tag(
        "header",
        tag("p", f"quickstudy · report of {kind}", class_="eyebrow"),
        tag("h1", facts.title),
        tag("p", facts.subtitle, class_="subtitle") if facts.subtitle else None,
        tag("p", made, class_="note") if made else None,
        *parts,
    )


def document(title: str, *parts: Child) -> str:
    """One self-contained HTML document of these ``parts``."""
    body = tag(
        "main",
        *parts,
        tag(
            "footer",
            tag("p", "Made by quickstudy. This page needs no other files.", class_="note"),
        ),
    )
    css = resources.files("quickstudy.reports").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Markup(css)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def reproduction(facts: Reproducible) -> Markup:
    """The section with command, configuration and versions."""
    command = (
        join(
            tag("p", "The same command at the same commit gives the same tasks.", class_="note"),
            tag("pre", tag("code", facts.command)),
        )
        if facts.command
        else None
    )
    versions = {**facts.versions, **({"commit": facts.commit} if facts.commit else {})}
    plain = json.dumps(facts.config, indent=2, ensure_ascii=False, default=str)
    return tag(
        "section",
        tag("h2", "How to reproduce this"),
        command,
        tag(
            "div",
            tag("div", tag("h3", "Configuration"), _listing(dict(_flat(facts.config)))),
            tag("div", tag("h3", "Versions"), _listing(versions)),
            class_="two",
        ),
        tag("details", tag("summary", "Configuration as JSON"), tag("pre", tag("code", plain)))
        if facts.config
        else None,
    )


def _listing(values: Mapping[str, object]) -> Markup:
    if not values:
        return tag("p", "Not recorded.", class_="note")
    lines = (
        tag("tr", tag("th", name, scope="row"), tag("td", str(value)))
        for name, value in values.items()
    )
    return tag("table", tag("tbody", *lines), class_="listing")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values under dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "–" if value is None else value
