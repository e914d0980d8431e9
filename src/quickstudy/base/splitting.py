"""What a split of classes is asked for; needs no torch, so that recipes are checked at once."""

from __future__ import annotations

from collections.abc import Sequence

USUAL_WAYS = 5
"""Of the tasks that a split is made for, and the default of recipes."""


def check_fractions(fractions: Sequence[float]) -> None:
    """ValueError unless ``fractions`` are three positive numbers that add up to 1."""
    # Written so that NaN, for which every comparison is False, is refused too.
    if len(fractions) != 3 or not (min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):
        raise ValueError(
            "fractions: must be three positive numbers, for training, validation and test, that "
            f"add up to 1; found {tuple(fractions)}. Give for example 0.6, 0.2 and 0.2."
        )
