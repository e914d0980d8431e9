"""Values from outside in error messages: short, whatever they are."""

from __future__ import annotations

import reprlib
from typing import Any

_MOST = 200  # characters

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxstring = _short.maxother = _short.maxlong = 100


def shown(value: Any) -> str:
    """The repr of ``value`` in at most 200 characters, with "..." where parts are left out.

    A few hundred bytes of YAML or JSON can hold a value whose repr fills the memory (lists that
    hold one another many times) or cannot be made at all (thousands of levels, giant integers).
    """
    try:
        if type(value).__module__ == "numpy" and value.ndim == 0:  # 3, not np.int64(3)
            value = value.item()
        text = _short.repr(value)
    except Exception:  # the repr of a foreign class may raise anything
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def told(error: BaseException) -> str:
    """The message of ``error``, or its type where it has none, in at most 200 characters."""
    text = str(error) or type(error).__name__
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
