"""What every command prints with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def print_rich(thing: Any) -> None:
    """Print a table or text of rich."""
    from rich.console import Console

    Console(soft_wrap=True).print(thing)


def print_path(label: str, path: Path) -> None:
    """Print where something is."""
    click.echo(f"{click.style(label, dim=True)} {path}")  # rich would read markup in the path


def print_fact(label: str, text: str) -> None:
    """Print one fact with its name."""
    click.echo(f"{click.style(label, dim=True)} {text}")
