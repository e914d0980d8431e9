"""Floats as strict JSON holds them: it has neither NaN nor infinity."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """Nested lists, floats rounded to 8 significant digits; null for NaN, "inf" for infinity."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return float(f"{value:.8g}") if math.isfinite(value) else str(value)


def number(value: Any) -> Any:
    """What :func:`plain` was given."""
    if isinstance(value, list):
        return [number(each) for each in value]
    if value is None:
        return math.nan
    return float(value) if isinstance(value, str) else value
