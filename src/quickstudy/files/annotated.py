"""Whether a value from a file is of the type with which a constructor annotates an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin


def is_a(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the annotated type ``kind``; for types that constructors here use."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(is_a(value, part) for part in parts)
    if origin is Callable:
        return callable(value)
    if origin in (tuple, Sequence):
        return isinstance(value, tuple) and all(is_a(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(
            is_a(key, parts[0]) and is_a(item, parts[1]) for key, item in value.items()
        )
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)
