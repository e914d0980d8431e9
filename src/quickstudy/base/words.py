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


def in_bytes(number: float) -> str:
    """``number`` bytes in the unit that suits it: "0 B", "1.5 kB", "3.2 GB"."""
    unit, name = next(
        ((one, name) for one, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= one),
        (1.0, "B"),
    )
    return f"{number / unit:.1f}".removesuffix(".0") + f" {name}"


def in_thousands(number: float) -> str:
    """A large number in short: 113000 -> "113k", 25600000 -> "25.6M"."""
    unit, name = next(
        ((one, name) for one, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= one),
        (1.0, ""),
    )
    return f"{number / unit:.1f}".removesuffix(".0") + name
