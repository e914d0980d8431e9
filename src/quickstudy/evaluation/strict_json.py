"""Encoding floats in strict JSON, which has neither NaN nor infinity."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """JSON for nested lists of numbers: floats to 8 digits, None for NaN, "inf" for infinity."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return float(f"{value:.8g}") if math.isfinite(value) else str(value)


def number(value: Any) -> Any:
    """The inverse of :func:`plain`."""
    if isinstance(value, list):
        return [number(each) for each in value]
    if value is None:
        return math.nan
    return float(value) if isinstance(value, str) else value
