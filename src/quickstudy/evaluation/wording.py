"""Formatting scores for people, without importing torch."""

from __future__ import annotations


def score(value: float, unit: str = "") -> str:
    """A score in its unit: 0.9712 in "%" -> "97.1%", 0.03512 without a unit -> "0.0351"."""
    value = _rounded(value)
    return f"{100 * value:.1f}%" if unit == "%" else f"{value:.3g}"


def difference(value: float, unit: str = "") -> str:
    """A difference of scores, with its sign: 0.0321 in "%" -> "+3.2"."""
    value = _rounded(value)
    return f"{100 * value:+.1f}" if unit == "%" else f"{value:+.2g}"


def half_width(value: float, unit: str = "") -> str:
    """The half-width of an interval, printed after "±": 0.0021 in "%" -> "0.2"."""
    value = _rounded(value)
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.2g}"


def _rounded(value: float) -> float:
    """To 6 digits, so that 0.0625 and what JSON kept of it, 0.0624999999, have the same text.

    Zero has no sign.
    """
    return float(f"{value:.6g}") + 0.0
