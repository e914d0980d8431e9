"""Numbers of classes and rows: fixed ones, and ranges from which each task draws."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from quickstudy.base.shown import shown

Count = int | tuple[int, int]
"""A fixed number, or an inclusive range (low, high) from which each task draws a number."""


def bounds_of(name: str, count: Count, who: str = "episodes") -> tuple[int, int]:
    """The range (low, high); ValueError, in which it is ``name`` of ``who``, for any other."""
    ends = tuple(count) if isinstance(count, Sequence) else (count, count)
    whole = all(isinstance(end, Integral) and not isinstance(end, bool) for end in ends)
    if not whole or len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
        raise ValueError(
            f"{who}: {name} must be a positive whole number or a range (low, high) of such; "
            f"found {shown(count)}."
        )
    return int(ends[0]), int(ends[1])


def draw_count(bounds: tuple[int, int], generator: torch.Generator) -> int:
    """A number of the range; fixed ones use no random number."""
    low, high = bounds
    return low if low == high else int(torch.randint(low, high + 1, (), generator=generator))


def draw_counts(bounds: tuple[int, int], n: int, generator: torch.Generator) -> Tensor:
    """``n`` numbers of the range."""
    return torch.randint(bounds[0], bounds[1] + 1, (n,), generator=generator)


def distinct(n: int, k: int, generator: torch.Generator) -> Tensor:
    """``k`` distinct numbers below ``n``, uniform among all ordered choices."""
    # For small k repetitions are rare, and redrawing is much cheaper than a permutation of all n.
    while k * k <= n:
        drawn = torch.randint(n, (k,), generator=generator)
        if len(set(drawn.tolist())) == k:
            return drawn
    return torch.randperm(n, generator=generator)[:k]
