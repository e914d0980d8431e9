"""Baselines: what can be predicted without learning over tasks, to compare a learner with.

An answer may have two methods for this, :class:`Guesses` and :class:`HasNearestMean`. Evaluation
scores their predictions on the same tasks as the learner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from quickstudy.base.trees import leaves
from quickstudy.core import Examples

_ABSENT = -1e30
"""The logit of a class without support rows: probability 0, but finite."""


@runtime_checkable
class Guesses(Protocol):
    """An answer with a baseline that ignores the inputs."""

    @property
    def guess_name(self) -> str:
        """What it is called in results, for example "chance"."""

    def guesses(self, support: Examples, query: Examples) -> Sequence[Any]:
        """Predictions for ``query`` that do not depend on its inputs, of one or more strategies.

        The strategy with the best score over all tasks is the baseline.
        """


@runtime_checkable
class HasNearestMean(Protocol):
    """An answer whose classes have means in the space of the inputs."""

    def nearest_mean(self, support: Examples, query: Examples) -> Any:
        """Predictions for ``query`` by the nearest mean; None for inputs without means."""


def nearest_mean(support: Examples, inputs: Any, classes: int) -> Tensor | None:
    """Logits (n, classes) that are highest for the class whose mean input is nearest.

        logits = x c_k - |c_k|^2 / 2  =  -|x - c_k|^2 / 2 + |x|^2 / 2

    Targets of ``support`` are class ids (s,), -1 where unknown; rows count by weight, and a class
    without weight gets probability 0. None where inputs are not all reals, see :func:`as_vectors`.
    """
    rows, queries = as_vectors(support.inputs), as_vectors(inputs)
    if rows is None or queries is None:
        return None
    ids = torch.arange(classes, device=support.targets.device)
    counted = (support.targets.unsqueeze(-1) == ids) * support.weights.to(rows.dtype).unsqueeze(-1)
    totals = counted.sum(0)
    means = counted.mT @ rows / totals.clamp_min(torch.finfo(rows.dtype).tiny).unsqueeze(-1)
    # Far from the origin the two terms would cancel, so we move it amid the means.
    centre = rows.mean(0)
    means, queries = means - centre, queries - centre
    logits = queries @ means.mT - means.square().sum(1) / 2
    return torch.where(totals > 0, logits, _ABSENT)


def as_vectors(inputs: Any) -> Tensor | None:
    """A tree of real inputs (n, ...) as vectors (n, d) of float32 or float64.

    None where some leaf holds ids, masks or other integers, whose means say nothing.
    """
    parts = list(leaves(inputs))
    if not parts or not all(leaf.is_floating_point() for leaf in parts):
        return None
    vectors = torch.cat([leaf.reshape(len(leaf), -1) for leaf in parts], 1)
    return vectors if vectors.dtype == torch.float64 else vectors.float()
