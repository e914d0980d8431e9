"""Short texts of values that hold tensors: shapes instead of numbers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

Kind = TypeVar("Kind", bound=type)

_MOST_ITEMS = 6
_MOST_CHARACTERS = 200


def short_repr(kind: Kind) -> Kind:
    """Class decorator: ``repr`` of a NamedTuple or dataclass gives shapes instead of numbers."""
    kind.__repr__ = _named  # type: ignore[assignment, method-assign]
    return kind


def in_short(value: Any) -> str:
    """``value`` on one line: tensors and arrays as type and shape, modules as their class.

    Of long lists only the first items are given, with the number of all.

    >>> import torch
    >>> in_short({"mean": torch.zeros(5, 64)})
    "{'mean': float32 (5, 64)}"
    """
    if isinstance(value, nn.Module):
        return type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    if isinstance(value, dict):
        pairs = [f"{key!r}: {in_short(each)}" for key, each in _first(value.items())]
        return "{" + _listed(pairs, len(value)) + "}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _named(value)
    if isinstance(value, list | tuple):
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        return opening + _listed([in_short(each) for each in _first(value)], len(value)) + closing
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _named(value: Any) -> str:
    names = [each.name for each in fields(value)] if is_dataclass(value) else value._fields
    parts = ", ".join(f"{name}={in_short(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({parts})"


def _array(value: Any) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    on = f" on {value.device}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
    return f"{kind} {tuple(value.shape)}{on}"


def _first(values: Any) -> list[Any]:
    return [each for _, each in zip(range(_MOST_ITEMS), values, strict=False)]


def _listed(texts: list[str], n: int) -> str:
    return ", ".join([*texts, *([f"… {n} in all"] if n > len(texts) else [])])
