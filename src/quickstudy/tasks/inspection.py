"""One look at the numbers of a batch, taken where its tasks were drawn.

A look at a GPU's tensor lets the host wait until the GPU has done all that it was told to. So a
batch is looked at once, before it is moved, and what was seen goes with it: a step asks no more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.core import Examples, Task
from quickstudy.tasks.targets import check_support, check_targets


class Look(NamedTuple):
    """What :func:`look_at` saw, beside targets that the batch's spec can judge.

    ``rows_count_alike``  whether all weights are one and all targets known.
    """

    rows_count_alike: bool


def look_at(batch: Task) -> Look:
    """Look at weights and targets of a batch (tasks, rows, ...) of tasks: one transfer to the host.

    Raises ValueError for a support without rows, for targets whose shape or kind the spec does not
    ask for, and for class ids that it has no output for.
    """
    support, query, spec = batch
    check_support(support._replace(targets=support.targets[0], weights=support.weights[0]), spec)
    check_targets("query", query.targets[0], spec)
    parts = [part for part in (support, query) if part.weights.shape[1]]
    alike, told = (
        len(parts) == 2,
        torch.stack([t for part in parts for t in _extremes(part, spec.outputs)]),
    )
    for part, numbers in zip(parts, told.view(len(parts), -1).tolist(), strict=True):
        lightest, heaviest, lowest, beyond = numbers
        real = part.targets.is_floating_point()
        if not real and beyond >= 0:
            raise ValueError(_no_output_for(part.targets, spec.outputs))
        known = not math.isnan(lowest) if real else lowest >= 0
        alike = alike and lightest == heaviest == 1 and known
    return Look(alike)


def _extremes(part: Examples, outputs: int) -> tuple[Tensor, ...]:
    """Lowest and highest weight, lowest target, and how far the highest id is beyond the last one.

    One operator gives two, which are NaN where any number is. Side by side with floats, ids may be
    rounded: to others of the same sign, so that comparing with 0 is safe.
    """
    low, high = part.targets.aminmax()
    beyond = high if high.is_floating_point() else high.long() - outputs
    return *part.weights.aminmax(), low, beyond


def _no_output_for(ids: Tensor, outputs: int) -> str:
    return (
        f"tasks: class ids must lie in 0 … {outputs - 1} for {outputs} outputs; found "
        f"{int(ids.max())}. Renumber the classes of support and query alike, or raise the spec's "
        "ways."
    )
