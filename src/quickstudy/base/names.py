"""What is said of names: that one is unknown, or that two look alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from quickstudy.base.shown import shown


def unknown_name(kind: str, name: str, valid: Mapping[str, Any]) -> ValueError:
    """The error for an unknown ``name``: it suggests close ones and lists all valid ones."""
    close = get_close_matches(name[:100].lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return ValueError(f"{kind}: {shown(name)} is unknown. {hint}Valid names: {', '.join(valid)}.")


def warn_of_alike(where: str, names: Iterable[str]) -> None:
    """Warn of the first two class ``names`` that differ in capital letters alone, as Cat and cat.

    They are told apart, since in writing a and A are two things; more often one is misspelt.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.casefold(), name)
        if other != name:
            warnings.warn(
                f"{where}: names of classes should differ in more than capital letters; found "
                f"{shown(other)} and {shown(name)}, which are taken for two classes. Spell them "
                "alike if they are one.",
                stacklevel=3,
            )
            return
