"""Sets of classes that contain the true one with a given probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.core import Predictor
from quickstudy.evaluation.calibrate import Calibration, calibration_of, minus_log


@dataclass(frozen=True)
class PredictionSets:
    """For each row the classes that it may be of.

    ``contains``  (n, ways): whether a class is in the row's set.
    ``coverage``  the share of rows whose class is in their set, on average over tasks.
    """

    contains: Tensor
    coverage: float

    @property
    def sizes(self) -> Tensor:
        """(n,): the number of classes in each set; 0 for one that says "not sure of any"."""
        return self.contains.sum(-1)

    @property
    def ids(self) -> list[list[int]]:
        """The class ids in each set."""
        return [row.nonzero().flatten().tolist() for row in self.contains]

    @property
    def only(self) -> Tensor:
        """(n,): the class of a set of one; -1 for an empty set, and for several classes."""
        one = self.sizes == 1
        return self.contains.to(torch.uint8).argmax(-1).where(one, -1)

    def named(self, names: Sequence[str]) -> list[list[str]]:
        """The names of the classes in each set; ``names`` are those of the classes by id."""
        return [[names[each] for each in row] for row in self.ids]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.contains)


def prediction_sets(
    predictor: Predictor,
    inputs: Any,
    coverage: float = 0.9,
    calibration: Calibration | None = None,
) -> PredictionSets:
    """The classes that each of ``inputs`` (n, ...) may be of: of ``coverage`` rows, the true one.

        set = {k: -log p_k <= q},  q = conformal_quantile(-log p_true of calibration, coverage)

    ``calibration``  by :func:`quickstudy.calibrate`, or the predictor's own by default.

    Coverage is marginal: on average over tasks like those of the calibration, and over their rows.
    It does not hold for each task, or for each class.

    A set may be empty. Where ``coverage`` is below the accuracy of the predictor, the bound is such
    that single rows must be left uncovered, and these are the rows it is least sure of: at 97%
    accuracy and a coverage of 90%, sets have 0.95 classes on average or so. So an empty set means
    "not sure of any class", not "none of them" (:func:`quickstudy.stranger_score` is for that).
    Ask for a coverage above the accuracy where each row must have a class.

    Raises ValueError for a coverage outside (0, 1), for one that needs more tasks (or left-out
    rows) than the calibration has, for a predictor of anything but classes, and for a calibration
    of another learner or number of classes.

    Reference: Vovk, Gammerman and Shafer (2005); sets of this form, the smallest on average for a
    coverage, in Sadinle, Lei and Wasserman (2019), Least Ambiguous Set-Valued Classifiers with
    Bounded Error Levels. Bounds: :mod:`quickstudy.evaluation.conformal`.

    >>> import quickstudy as qs
    >>> rows = qs.LabelledRows.from_labels([[k + r / 9] for k in range(6) for r in range(9)],
    ...                                    [k for k in range(6) for r in range(9)])
    >>> tasks = qs.episodes(rows, ways=3, shots=1, queries=5)
    >>> learner = qs.Prototypical(qs.backbones.MLP(1, hidden=(8,)))
    >>> calibration = qs.calibrate(learner, tasks, tasks=20)
    >>> support = qs.examples([[0.0], [2.0], [4.0]], [0, 1, 2])
    >>> predictor = learner(support, qs.classification(3))
    >>> len(qs.prediction_sets(predictor, [[0.1], [4.1]], 0.9, calibration))
    2
    """
    calibration = calibration_of(predictor, calibration)
    bound = calibration.bound(coverage)
    with torch.no_grad():
        return sets_of_logits(predictor(inputs), bound, coverage)


def sets_of_logits(logits: Tensor, bound: float, coverage: float) -> PredictionSets:
    """Sets of the classes for which -log softmax(logits) (n, ways) is at most ``bound``."""
    return PredictionSets(minus_log(logits) <= bound, coverage)
