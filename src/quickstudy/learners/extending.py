"""Functions for learners that extend a state: means over two support sets, further outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.words import count


def refuse_shared_statistics(backbone: nn.Module, learner: str) -> None:
    """Raise ValueError for a backbone whose features of a row depend on its support set.

    Features of two support sets are then not those of their union.
    """
    if rows_see_one_another(backbone):
        raise ValueError(
            f"{learner}: prior and extend need features that depend on no other row, but the "
            "backbone normalises by statistics of one support set or batch. Adapt to all rows at "
            'once, or build the backbone with norm="group", or with norm="running" in eval mode.'
        )


def widened(rows: Tensor, outputs: int) -> Tensor:
    """(k, ...) -> (outputs, ...): zeros for outputs that are new; ValueError for fewer than k."""
    if len(rows) > outputs:
        raise ValueError(
            f"extend: the state has {count(len(rows), 'output')}, but the task has only "
            f"{outputs}. Extend with a spec of as many outputs or more."
        )
    return F.pad(rows, (*[0, 0] * (rows.ndim - 1), 0, outputs - len(rows)))


def joint_means(
    means: Tensor, totals: Tensor, more_means: Tensor, more_totals: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted means (k, d) over two sets of rows, of total weights (k,) each, and their totals.

    The second set may have more outputs.
    """
    means, totals = (widened(part, len(more_totals)) for part in (means, totals))
    both = totals + more_totals
    share = more_totals / both.clamp_min(torch.finfo(both.dtype).tiny)
    return means + share.unsqueeze(-1) * (more_means - means), both
