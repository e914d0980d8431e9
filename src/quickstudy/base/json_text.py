"""JSON from outside: of bounded size and depth, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quickstudy.base.shown import told

DEEPEST = 50  # levels; functions that call themselves for each level reach Python's limit at 1,000


def read_json(path: Path, most: int = 2**20) -> Any:
    """The JSON value in a file of at most ``most`` bytes.

    Raises OSError where it cannot be read; ValueError for a larger file, one that is no regular
    file, JSON that is damaged, and lists or objects inside one another in more than 50 levels.
    """
    if not path.is_file():  # opening a pipe waits for a writer
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(
            f"{path}: is over {most:,} bytes, more than any such file of quickstudy has. "
            "Use another copy."
        )
    with damage_names(path):
        return parse_json(content)


def parse_json(text: str | bytes) -> Any:
    """The value of ``text``; ValueError where it is damaged or has more than 50 levels."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _too_deep() from error
    refuse_deep(value)
    return value


def refuse_deep(value: Any) -> None:
    """ValueError where lists and mappings are inside one another in more than 50 levels."""
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list) and each]:
        depth += 1
        if depth > DEEPEST:
            raise _too_deep()
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]


@contextmanager
def damage_names(path: Path) -> Iterator[None]:
    """Turn the errors of using a damaged file's content into one ValueError that names it."""
    try:
        yield
    except (
        ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: not a file that quickstudy wrote, or a damaged one ({told(error)}). Restore "
            "it, or use another copy."
        ) from error


def _too_deep() -> ValueError:
    return ValueError(f"lists or objects are inside one another in more than {DEEPEST} levels")
