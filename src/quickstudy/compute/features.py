"""All rows of a step through the backbone in one call, for learners that see only its features.

Under ``vmap`` a CPU convolves maps in the plain layout, and task by task it calls the many small
operators of a learner that reads a sequence again and again. Between the two: the backbone as it
is, for rows of all tasks together, and ``vmap`` for what follows.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples, Learner, Task

_ROWS = 128
"""In one call: their feature maps stay in the cache, and the calls cost little beside them."""


def tasks_per_call(stack: Task) -> int:
    """How many tasks such as those of ``stack`` have about as many rows as one call takes."""
    rows = int(sum(part.weights.shape[1] for part in (stack.support, stack.query)))
    return max(1, _ROWS // rows)


def embedded(learner: Learner, batch: Task) -> tuple[Learner, Task]:
    """``learner`` for features instead of inputs, and the batch with features as its inputs.

    Whether that gives the same gradient is for the caller to find out: not where inputs are looked
    at beside the backbone.

    Raises TypeError for a learner without an attribute ``backbone`` that is a module, and for one
    in which rows see one another.
    """
    backbone = getattr(learner, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"{type(learner).__name__} has no backbone that could be called first")
    if rows_see_one_another(backbone):
        raise TypeError("in the backbone, rows see one another")
    parts = (batch.support, batch.query)
    rows = map_tree(lambda *parts: torch.cat([p.flatten(0, 1) for p in parts]),
                    *(part.inputs for part in parts))  # fmt: skip
    n = len(next(leaves(rows)))
    pieces = [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]
    features = torch.cat([backbone(map_tree(lambda t, p=p: t[p], rows)) for p in pieces])
    support, query = features.split([part.weights.numel() for part in parts])
    # A shallow copy, with the parameters of the original: only the backbone's place is another's.
    reader = copy.copy(learner)
    reader._modules = learner._modules | {"backbone": nn.Identity()}
    return reader, Task(_of(support, parts[0]), _of(query, parts[1]), batch.spec)


def _of(features: Tensor, rows: Examples) -> Examples:
    return rows._replace(inputs=features.unflatten(0, rows.weights.shape))
