"""The error for an unknown name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from quickstudy.base.shown import shown


def unknown_name(kind: str, name: str, valid: Mapping[str, Any]) -> ValueError:
    """The error for an unknown ``name``: it suggests close ones and lists all valid ones."""
    close = get_close_matches(name[:100].lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return ValueError(f"{kind}: {shown(name)} is unknown. {hint}Valid names: {', '.join(valid)}.")
