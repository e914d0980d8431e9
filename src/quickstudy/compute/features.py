"""The mapping "features": the backbone once for the rows of all tasks, then vmap for the rest.

On a CPU, ``vmap`` cannot use the fast layout channels last for convolutions, and a loop over tasks
repeats the many small operators of learners that read a sequence. This mapping avoids both. It is
for learners that read their inputs only through the backbone.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples, Learner, Task

_ROWS = 128
"""Rows per call of the backbone: few enough that feature maps stay in the CPU's cache."""


def tasks_per_call(stack: Task) -> int:
    """The number of tasks like those of ``stack`` whose rows fill one call of the backbone."""
    rows = int(sum(part.weights.shape[1] for part in (stack.support, stack.query)))
    return max(1, _ROWS // rows)


def embedded(learner: Learner, stack: Task) -> tuple[Learner, Task]:
    """``learner`` without its backbone, and the stack with the backbone's features as inputs.

    The caller must check that this gives the same result: it does not for learners that also read
    inputs outside of the backbone.

    Raises TypeError for a learner without an attribute ``backbone`` that is a module, and for a
    backbone in which a row's features depend on other rows.
    """
    backbone = getattr(learner, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"{type(learner).__name__} has no backbone that could be called first")
    if rows_see_one_another(backbone):
        raise TypeError("in the backbone, a row's features depend on other rows")
    parts = (stack.support, stack.query)
    rows = map_tree(lambda *parts: torch.cat([p.flatten(0, 1) for p in parts]),
                    *(part.inputs for part in parts))  # fmt: skip
    n = len(next(leaves(rows)))
    pieces = [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]
    features = torch.cat([backbone(map_tree(lambda t, p=p: t[p], rows)) for p in pieces])
    support, query = features.split([part.weights.numel() for part in parts])
    # A shallow copy that shares all parameters; only its backbone is replaced.
    without_backbone = copy.copy(learner)
    without_backbone._modules = learner._modules | {"backbone": nn.Identity()}
    return without_backbone, Task(
        _with_inputs(parts[0], support), _with_inputs(parts[1], query), stack.spec
    )


def _with_inputs(rows: Examples, features: Tensor) -> Examples:
    return rows._replace(inputs=features.unflatten(0, rows.weights.shape))
