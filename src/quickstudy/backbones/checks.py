"""Checking the widths that a backbone is built with."""

from __future__ import annotations

from quickstudy.base.shown import shown


def check_widths(who: str, fewest: int = 1, **widths: int | tuple[int, ...] | None) -> None:
    """ValueError, prefixed by ``who``, for a width that is no whole number of ``fewest`` or more.

    A width is given by the name of its argument; None is one that is not there.
    """
    for name, given in widths.items():
        for width in given if isinstance(given, tuple) else (given,):
            if width is not None and (type(width) is not int or not fewest <= width < 2**31):
                raise ValueError(
                    f"{who}: {name} must be a whole number from {fewest} to 2**31; found "
                    f"{shown(given)}."
                )
