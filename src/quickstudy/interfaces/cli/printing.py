"""What every command has: results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether the option ``name`` was given, rather than left at its default."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def print_rich(thing: Any) -> None:
    """Print a table or text of rich, wider than the terminal where words would be broken."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(soft_wrap=True)
    options = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, options, thing).minimum)
    console.print(thing)


def print_path(label: str, path: Path, err: bool = False) -> None:
    """Print where something is, to standard error where ``err``."""
    # Not with rich, which would read markup in the path.
    click.echo(f"{click.style(label, dim=True)} {path}", err=err)


def print_json(value: Any) -> None:
    """Print strict JSON; escapes keep it readable in every encoding of a terminal or file."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def print_fact(label: str, text: str) -> None:
    """Print one fact with its name."""
    click.echo(f"{click.style(label, dim=True)} {text}")
