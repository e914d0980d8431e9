"""The commands that list data sets and learners."""

from __future__ import annotations

from typing import Any

import click

from quickstudy.interfaces.cli.printing import print_rich


@click.command()
@click.argument("name", required=False)
def datasets(name: str | None) -> None:
    """List the data sets, or show all facts of NAME: licence, citation, source, size."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from quickstudy.datasets.registry import CARDS, card

    table = Table(box=box.SIMPLE_HEAD, show_header=name is None)
    if name is not None:
        for _ in range(2):
            table.add_column(overflow="fold")
        for field, value in vars(card(name)).items():
            if field != "loader":
                table.add_row(field, escape(_cell_text(value)))
        print_rich(table)
        return
    for column in ("name", "content", "classes", "image", "download", "licence"):
        table.add_column(column, overflow="fold")
    for entry in CARDS.values():
        counts = "/".join(map(str, entry.classes)) if entry.classes else "–"
        shape = "×".join(map(str, entry.shape)) if entry.shape else "–"
        size = f"{entry.size_bytes / 1e6:.0f} MB" if entry.size_bytes else "–"
        table.add_row(entry.name, entry.summary, counts, shape, size, entry.licence)
    print_rich(table)


def _cell_text(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    return "\n".join(map(str, value)) if isinstance(value, tuple) else str(value)


@click.command()
def learners() -> None:
    """List the learners."""
    from rich import box
    from rich.table import Table

    from quickstudy.files.registry import LEARNERS

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "title", "family", "paper", "learns"):
        table.add_column(column, overflow="fold")
    for card in LEARNERS.values():
        table.add_row(
            card.name, card.title, card.family, f"{card.authors} ({card.year})", card.learns
        )
    print_rich(table)
