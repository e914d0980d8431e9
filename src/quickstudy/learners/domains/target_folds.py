"""Folds of the labelled target rows of a support set, which depend on the rows alone.

Neither the order of the rows nor their weights changes the folds, and equal inputs are always in
the same fold: a row of weight 2 is left out like two equal rows, and no copy of a row that is left
out stays in training.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Answer, Examples
from quickstudy.tasks.examples import counted_weights
from quickstudy.tasks.transfer import is_target

NOWHERE = -1
"""The fold of a row that is never left out: of a source, unlabelled, or without weight."""


def target_folds(support: Examples, answer: Answer, folds: int, repeats: int) -> Tensor:
    """(repeats, n): in which of ``folds`` each row is left out; :data:`NOWHERE` for never.

    Each class is spread over all folds, so that it stays in training where it has two different
    rows. There are fewer folds where the largest class has fewer rows.
    """
    places = left_out_rows(support, answer)
    found = torch.full((repeats, len(support.weights)), NOWHERE)
    if not len(places):
        return found
    numbers = _numbers_of_inputs(support, places)
    ids = support.targets[places] if isinstance(answer, Classes) else torch.zeros_like(places)
    for k in ids.unique().tolist():
        of_class = numbers[ids.cpu() == k]
        different = of_class.unique()
        for repeat in range(repeats):
            # The same shuffling for all classes of one size, so that names of classes play no part.
            generator = torch.Generator().manual_seed(repeat)
            order = torch.randperm(len(different), generator=generator)
            fold = order % folds
            found[repeat, places[ids == k].cpu()] = fold[torch.searchsorted(different, of_class)]
    return found


def left_out_rows(support: Examples, answer: Answer) -> Tensor:
    """The numbers of the labelled target rows with weight."""
    return (is_target(support) & (counted_weights(support, answer) > 0)).nonzero().flatten()


def fewest_rows(support: Examples, answer: Answer) -> int:
    """The fewest different labelled target rows of a class that occurs; of all rows for reals.

    A class that occurs among source rows alone has 0.
    """
    places = left_out_rows(support, answer)
    if not len(places):
        return 0
    numbers = _numbers_of_inputs(support, places)
    if not isinstance(answer, Classes):
        return len(numbers.unique())
    occurring = support.targets[counted_weights(support, answer) > 0].unique()
    ids = support.targets[places].cpu()
    return min(len(numbers[ids == k].unique()) for k in occurring.tolist())


def _numbers_of_inputs(support: Examples, places: Tensor) -> Tensor:
    """(len(places),): the rank of each row's inputs among all different ones, equal for equal."""
    parts = [
        leaf[places.to(leaf.device)].detach().double().flatten(1)
        for leaf in leaves(map_tree(_at_least_one_axis, support.inputs))
    ]
    flat = torch.cat([part.cpu() for part in parts], 1).numpy()
    _, numbers = np.unique(flat, axis=0, return_inverse=True)
    return torch.from_numpy(numbers.reshape(-1))


def _at_least_one_axis(leaf: Tensor) -> Tensor:
    return leaf if leaf.ndim > 1 else leaf.unsqueeze(-1)
