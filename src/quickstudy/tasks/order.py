"""The order of support rows, for learners that read them as a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.core import Examples, Learner

SEED = 0


def reads_a_sequence(learner: Learner) -> bool:
    """Whether the order of the support rows matters to ``learner``."""
    return "support_order_is_irrelevant" in learner.exceptions


def in_mixed_order(learner: Learner, support: Examples) -> Examples:
    """``support`` in a fixed random order where ``learner`` reads a sequence; else as it is.

    Rows from folders and tables often come class by class, but such learners are trained on rows in
    random order and predict worse after rows sorted by class. The order depends on the number of
    rows alone, so the same rows always give the same predictor.
    """
    if not reads_a_sequence(learner):
        return support
    order = torch.randperm(len(support.weights), generator=torch.Generator().manual_seed(SEED))

    def reorder(leaf: Tensor) -> Tensor:
        return leaf[order.to(leaf.device)]

    mixed: Examples = map_tree(reorder, support)
    return mixed
