"""What every command prints with: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)


def print_rich(thing: Any) -> None:
    """Print a table or text of rich."""
    from rich.console import Console

    Console(soft_wrap=True).print(thing)


def print_path(label: str, path: Path, err: bool = False) -> None:
    """Print where something is, to standard error where ``err``."""
    # Not with rich, which would read markup in the path.
    click.echo(f"{click.style(label, dim=True)} {path}", err=err)


def print_json(value: Any) -> None:
    """Print strict JSON; escapes keep it readable in every encoding of a terminal or file."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))
