"""Numbers of things in words."""

from __future__ import annotations


def count(n: int, one: str, many: str | None = None) -> str:
    """``n`` things: "1 file", "2,000 files"; ``many`` where the plural does not end in s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
