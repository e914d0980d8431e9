"""The quantile of conformal prediction: the least bound that keeps a new score with a given share.

Scores come in groups (here: the rows of one task), because rows of one task are alike: a hard task
has many high scores. Groups count alike, however many scores they have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.words import count


def conformal_quantile(
    scores: Sequence[Tensor], coverage: float, weights: Sequence[Tensor] | None = None
) -> float:
    """The least q with sum_k sum_i w_ki [s_ki <= q] >= (K + 1) coverage, where sum_i w_ki = 1.

    A score of a new group, exchangeable with the K given ones, is then at most q with a probability
    of at least ``coverage``. With one score a group, q is the ceil((n + 1) coverage)-th smallest
    of n scores, as in split conformal prediction.

    ``scores``   of each group (n_k,).
    ``weights``  of the scores (n_k,), each group's not all 0; ones by default.

    Raises ValueError for a coverage outside (0, 1), and for fewer groups than it needs.

    Reference: Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World; with
    groups: Lee, Barber and Willett (2023), Distribution-free inference with hierarchical data,
    section 3 (hierarchical conformal prediction).
    """
    check_coverage(coverage)
    groups = len(scores)
    if groups < (least := least_groups(coverage)):
        raise ValueError(
            f"coverage: {coverage:g} needs scores of at least {count(least, 'task')} (or rows, "
            f"where single rows were left out), as no bound is known to hold otherwise; found "
            f"{groups}. Calibrate on more, or ask for a coverage of at most {_most(groups)}."
        )
    if weights is None:
        weights = [torch.ones_like(of_group) for of_group in scores]
    share = torch.cat([each.double() / each.double().sum() for each in weights])
    values, order = torch.cat([each.double() for each in scores]).sort()
    reached = share[order].cumsum(0)
    # The tolerance is for sums such as nine times 0.1, below 0.9 in floating point.
    enough = reached >= (groups + 1) * coverage - 1e-9 * groups
    return float(values[int(enough.nonzero()[0])])


def least_groups(coverage: float) -> int:
    """The least number of groups (tasks, or rows) for which a bound exists: coverage/(1 - it)."""
    return max(1, math.ceil(coverage / (1 - coverage) - 1e-9))


def check_coverage(
    coverage: Any, name: str = "coverage", such: str = "0.9 for nine of ten"
) -> None:
    """ValueError unless ``coverage`` is a number between 0 and 1, both excluded."""
    number = isinstance(coverage, (int, float)) and not isinstance(coverage, bool)
    if not (number and 0 < coverage < 1):
        raise ValueError(
            f"{name}: must be a share between 0 and 1, both excluded; found {shown(coverage)}. "
            f"Give {such}."
        )


def _most(groups: int) -> str:
    return f"{math.floor(1000 * groups / (groups + 1)) / 1000:g}"
