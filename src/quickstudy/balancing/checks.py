"""Checks of the settings of balancers."""

from __future__ import annotations

import math


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_positive(who: str, **numbers: float) -> None:
    """ValueError unless all ``numbers`` are finite and above 0."""
    for name, number in numbers.items():
        if not (_is_number(number) and 0 < number < math.inf):
            raise ValueError(
                f"{who}: {name} must be a finite number above 0; found {number!r}. Leave it out "
                "for the default."
            )


def check_whole(who: str, least: int, **numbers: int) -> None:
    """ValueError unless all ``numbers`` are whole and at least ``least``."""
    for name, number in numbers.items():
        if type(number) is not int or number < least:
            raise ValueError(
                f"{who}: {name} must be a whole number of at least {least}; found {number!r}. "
                "Leave it out for the default."
            )


def check_not_negative(who: str, **numbers: float) -> None:
    """ValueError unless all ``numbers`` are finite and 0 or more."""
    for name, number in numbers.items():
        if not (_is_number(number) and 0 <= number < math.inf):
            raise ValueError(
                f"{who}: {name} must be a finite number of 0 or more; found {number!r}. Leave it "
                "out for the default."
            )
