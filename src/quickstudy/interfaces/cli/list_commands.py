"""The commands that list data sets, pretrained backbones and learners."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from quickstudy.interfaces.cli.printing import json_option, print_json, print_rich

if TYPE_CHECKING:
    from quickstudy.backbones.pretrained.registry import PretrainedCard
    from quickstudy.datasets.registry import Card


@click.command()
@click.argument("name", required=False)
@json_option
def datasets(name: str | None, as_json: bool) -> None:
    """List the data sets, or show all facts of NAME: licence, citation, source, size.

    What an application runs on is among them: `quickstudy run --data NAME`.
    """
    from quickstudy.applications.registry import DATA
    from quickstudy.base.names import unknown_name
    from quickstudy.datasets.registry import CARDS

    known = {each: CARDS.get(each) for each in {**CARDS, **DATA}}
    if name is not None and name not in known:
        raise unknown_name("datasets", name, known)
    chosen = known if name is None else {name: known[name]}
    if as_json:
        facts = [
            ({} if card is None else _plain(card)) | _of_task(each)
            for each, card in chosen.items()
        ]  # fmt: skip
        print_json(facts if name is None else facts[0])
    elif name is None:
        _print_entries([
            (each, _asked(each) if card is None else card.summary, _in_short(each, card))
            for each, card in chosen.items()
        ])  # fmt: skip
    else:
        found = known[name]
        every = ({} if found is None else _facts(found)) | _of_task(name)
        _print_entries([(fact, str(value)) for fact, value in every.items() if value])


def _of_task(name: str) -> dict[str, Any]:
    """What an application asks of the data ``name``; empty where there is none."""
    from quickstudy.applications.registry import DATA

    application = DATA.get(name)
    if application is None:
        return {}
    data = application.data.get(name)
    return {
        "name": name,
        "application": f"{application.name} ({application.title})",
        "asks": _asked(name),
        "dataset": None if data is None or data.dataset == name else data.dataset,
        "root": application.own if data is None else None,
        "brings": application.brings,
        "gives": application.gives,
    }


def _asked(name: str) -> str:
    """What an application asks of its data, or what it reads of the user's own."""
    from quickstudy.applications.registry import DATA

    application = DATA[name]
    data = application.data.get(name)
    return f"your own files: {application.own}" if data is None else data.asks


@click.command()
@json_option
def backbones(as_json: bool) -> None:
    """List the pretrained backbones: size, what they have seen, and whether they are installed."""
    from quickstudy.backbones.pretrained.registry import CARDS, PREFIXES

    cards = [*CARDS.values(), *PREFIXES.values()]
    facts = ("name", "title", "reads", "features", "seen", "licence", "reference", "megabytes")
    if as_json:
        print_json([
            {fact: getattr(card, fact) for fact in facts}
            | {"installed": _is_installed(card.module), "install": card.install}
            for card in cards
        ])  # fmt: skip
        return
    _print_entries([
        (card.name, f"{card.title}, for {card.reads}; {_weights(card)}", f"has seen {card.seen}")
        for card in cards
    ])  # fmt: skip


def _weights(card: PretrainedCard) -> str:
    parts = [f"{card.features:,} features"] if card.features else []
    parts += [f"{card.megabytes:g} MB"] if card.megabytes else []
    there = "installed" if _is_installed(card.module) else f"not installed: {card.install}"
    return ", ".join([*parts, there])


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@click.command()
@json_option
def learners(as_json: bool) -> None:
    """List the learners."""
    from quickstudy.files.registry import LEARNERS

    cards = LEARNERS.values()
    facts = ("name", "title", "family", "authors", "year", "learns")
    if as_json:
        print_json([{fact: getattr(card, fact) for fact in facts} for card in cards])
        return
    _print_entries([
        (card.name, f"{card.title}: {card.learns}", f"{card.family}; {card.authors} ({card.year})")
        for card in cards
    ])  # fmt: skip


def _print_entries(entries: list[tuple[str, ...]]) -> None:
    """Names, which are never broken, each beside one or more paragraphs; the second one is dim."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, first, *further in entries:
        table.add_row(name, Text(first))
        for text in further:
            table.add_row("", Text(text, style="dim"))
    print_rich(table)


def _in_short(name: str, card: Card | None) -> str:
    from quickstudy.applications.registry import DATA

    application = DATA.get(name)
    parts = [] if application is None else [f"application {application.name}"]
    if card is None:
        assert application is not None
        data = application.data.get(name)
        return "; ".join([*parts, "licence: yours" if data is None else f"data: {data.dataset}"])
    facts = _facts(card)
    named = {"classes": "classes", "shape": "inputs", "size": "download"}
    parts += [f"{title} {facts[fact]}" for fact, title in named.items() if facts[fact]]
    return "; ".join([*parts, f"licence: {card.licence}"])


def _facts(card: Card) -> dict[str, str]:
    """The facts of a card as texts; "" for what it does not have or what depends on the source."""
    size = _megabytes(card.size_bytes) if card.size_bytes else ""
    return {
        "name": card.name,
        "title": card.title,
        "summary": card.summary,
        "licence": card.licence,
        "citation": card.citation,
        "url": card.url,
        "shape": " × ".join(map(str, card.shape or ())),
        "classes": " / ".join(map(str, card.classes or ())),
        "options": ", ".join(sorted(card.options)),
        "splits": ", ".join(card.splits),
        "size": size,
        "source": "downloaded when first used" if card.downloads else "",
        "checked": card.checked,
        "checksums": "\n".join(map(str, card.checksum)),
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.{0 if size >= 10e6 else 1}f} MB"


def _plain(card: Card) -> dict[str, Any]:
    """A card as JSON; null for what depends on the source."""
    facts = asdict(card)
    del facts["loader"]
    return {**facts, "options": sorted(card.options), "named_tasks": bool(card.named_tasks)}
