"""Fields of dataclasses that were added later, and do not count while they have their default."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

ADDED = {"added": True}
"""``metadata`` of a field that was added to a dataclass whose values are in hashes and files."""


def counted_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, without the added ones that have their default.

    So the hash of a value, and its description in files, are what they were before the field.
    """
    return {
        field.name: getattr(value, field.name)
        for field in fields(value)
        if not field.metadata.get("added") or getattr(value, field.name) != field.default
    }


def needed_fields(kind: Any) -> set[str]:
    """The names of the fields that every description of a value has: those not added later."""
    return {field.name for field in fields(kind) if not field.metadata.get("added")}
