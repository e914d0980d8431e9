"""Learnt inner rates: one for each inner step and each parameter tensor (LSLR).

Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quickstudy.learners.gradient.descend import Rates


def learnt(names: Sequence[str], steps: int, rate: float, backbone: nn.Module) -> nn.Parameter:
    """(steps, names) rates that all start at ``rate``, in the backbone's type, on its device."""
    like = next(p for p in backbone.parameters() if p.is_floating_point())
    return nn.Parameter(like.new_full((steps, len(names)), rate))


def by_step(rates: Tensor | None, names: Sequence[str], rate: float) -> Rates:
    """The rates of each step by name; where none are learnt, the one ``rate`` of all."""
    if rates is None:
        return rate
    return [dict(zip(names, row.unbind(), strict=True)) for row in rates.unbind()]


def by_name(rates: Tensor | None, names: Sequence[str]) -> dict[str, Tensor]:
    """(steps,) rates by the name of what they move; empty where none are learnt."""
    return {} if rates is None else dict(zip(names, rates.unbind(1), strict=True))
