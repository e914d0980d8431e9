"""Checks of targets that several answers share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.words import count
from quickstudy.core import Answer


def check_count(answer: str, name: str, value: Any, least: int) -> None:
    """ValueError unless ``value`` is a whole number of at least ``least``."""
    if type(value) is not int or value < least:
        raise ValueError(
            f"{answer}: {name} must be a whole number of at least {least}; found {shown(value)}."
        )


def check_ids(targets: Any, what: str, answer: str, shape: tuple[str, ...], remedy: str) -> None:
    """ValueError unless ``targets`` are integers of dimensions that ``shape`` names."""
    wanted = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"
    if not isinstance(targets, Tensor):
        raise ValueError(
            f"{what}: {answer} needs a tensor of integer class ids {wanted}; found "
            f"{type(targets).__name__}. {remedy}"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.ndim != len(shape):
        raise ValueError(
            f"{what}: {answer} needs integer class ids {wanted} as targets; found "
            f"{targets.dtype} of shape {tuple(targets.shape)}. {remedy}"
        )


def check_largest_id(targets: Tensor, what: str, outputs: int, remedy: str) -> None:
    """ValueError where an id is ``outputs`` or more."""
    if targets.numel() == 0:
        return
    largest = int(targets.max())
    if largest >= outputs:
        raise ValueError(
            f"{what}: class ids must lie in 0 … {outputs - 1} for a task of "
            f"{count(outputs, 'output')}; found {largest}. {remedy}"
        )


def equal_but_for(field: str, a: Answer, b: Answer) -> bool:
    """Whether two answers are of one class, and equal in every field but ``field``.

    A subclass may have another loss, so its tasks must not share a stack with the base class's.
    """
    if type(a) is not type(b):
        return False
    return a == replace(b, **{field: getattr(a, field)})  # type: ignore[type-var]
