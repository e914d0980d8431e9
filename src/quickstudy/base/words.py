"""Numbers and lists of things in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def count(n: int, one: str, many: str | None = None) -> str:
    """``n`` things: "1 file", "2,000 files"; ``many`` where the plural does not end in s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def first_few(names: Collection[str], most: int = 6) -> str:
    """At most so many of ``names``, and the number of the others: "a, b, c and 2 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


def enumerated(parts: Sequence[str]) -> str:
    """All ``parts``: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
