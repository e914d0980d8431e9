"""The settings that a file or the command line gives to a run: types and ranges.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from quickstudy.base.shown import shown

MINIMA = {
    "size": 1, "channels": 1, "ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "workers": 1,
    "train_queries": 1, "fold": 1, "split_seed": 0, "steps": 0, "tasks_per_step": 1, "folds": 2,
    "validate_every": 0, "patience": 1, "test_tasks": 2, "seed": 0, "test_seed": 0, "threads": 1,
}  # fmt: skip
"""The smallest value of each number; an interval needs at least 2 test tasks."""

MAXIMA = {"size": 10_000, "channels": 4096, "threads": 4096, "workers": 4096}
"""The largest value of each number, 2**31 for others: larger ones only fill the memory."""


def check_settings(recipe: Any) -> None:
    """ValueError where a number of ``recipe`` is out of range, or its device is none.

    ``recipe``  anything with some of these settings as attributes.
    """
    for name, least in MINIMA.items():
        value = getattr(recipe, name, None)
        if value is not None and value < least:
            raise ValueError(f"{name}: must be at least {least}; found {shown(value)}.")
        most = MAXIMA.get(name, 2**31)
        if "seed" not in name and value is not None and value > most:
            raise ValueError(f"{name}: must be at most {most}; found {shown(value)}.")
    if recipe.validate_every == 0 and recipe.patience:
        raise ValueError("patience: counts validations, and validate_every is 0. Raise it.")
    if max(recipe.seed, recipe.test_seed or 0) >= 1 << 63:
        raise ValueError(f"seed: must be less than 2**63; found {shown(recipe.seed)}.")
    for name in ("rate", "clip"):
        if (value := getattr(recipe, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: must be a positive number; found {value}.")
    if recipe.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", recipe.device):
        raise ValueError(f"device: must be cpu, cuda or cuda:NUMBER; found {shown(recipe.device)}.")


def checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; ValueError, in which it is called ``name``, for another type.

    ``hint`` is a plain type, ``dict[str, Any]``, a ``Sequence`` of ``str``, ``float`` or ``int``,
    or a union of these. An integer is accepted for a float, and so is a string with a number: YAML
    1.1 reads ``1e-3`` as a string.
    """
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    types = tuple(get_origin(one) or one for one in hints)
    if Sequence in types and value is not None and (str not in types or type(value) is not str):
        return _checked_list(name, value, get_args(hints[types.index(Sequence)])[0])
    if float in types and isinstance(value, int | str) and not isinstance(value, bool):
        value = _number(value)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(each.__name__ for each in types if each is not NoneType)
        raise ValueError(f"{name} must be {expected}; found {shown(value)}.")
    if isinstance(value, int) and value.bit_length() > 65:
        raise ValueError(f"{name}: must be less than 2**65; found {shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite; found {value}.")
    return value


def _checked_list(name: str, value: Any, item: type) -> tuple[Any, ...]:
    kind = {str: "strings", float: "numbers", int: "whole numbers"}[item]
    try:
        if isinstance(value, list | tuple):
            return tuple(checked(name, each, item) for each in value)
    except ValueError:
        pass
    raise ValueError(f"{name} must be a list of {kind}; found {value!r}.")


def _number(value: int | str) -> Any:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value
