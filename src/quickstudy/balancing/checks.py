"""Checks of the settings of balancers."""

from __future__ import annotations

import math


def check_positive(who: str, **numbers: float) -> None:
    """ValueError unless all ``numbers`` are finite and above 0."""
    for name, number in numbers.items():
        if not (isinstance(number, int | float) and 0 < number < math.inf):
            raise ValueError(
                f"{who}: {name} must be a finite number above 0; found {number!r}. Leave it out "
                "for the default."
            )


def check_not_negative(who: str, **numbers: float) -> None:
    """ValueError unless all ``numbers`` are finite and 0 or more."""
    for name, number in numbers.items():
        if not (isinstance(number, int | float) and 0 <= number < math.inf):
            raise ValueError(
                f"{who}: {name} must be a finite number of 0 or more; found {number!r}. Leave it "
                "out for the default."
            )
