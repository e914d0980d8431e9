"""Answers only where the predictor is sure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quickstudy.core import Predictor
from quickstudy.evaluation.calibrate import Calibration, calibration_of
from quickstudy.evaluation.conformal import check_coverage
from quickstudy.evaluation.prediction_sets import sets_of_logits

NOT_SURE = -1
"""The id of no class."""


def abstain(
    predictor: Predictor,
    inputs: Any,
    coverage: float = 0.9,
    calibration: Calibration | None = None,
    false_alarms: float | None = None,
) -> Tensor:
    """The class of each of ``inputs`` (n, ...), or -1 for "not sure": (n,) ids.

    A row has a class where its prediction set has exactly one
    (:func:`quickstudy.prediction_sets`): with several it is undecided, with none it is less typical
    of every class than ``coverage`` rows are of theirs.

    ``false_alarms``  if given, rows whose stranger score is above what this share of rows of known
                      classes have are "not sure" too, because they may be of no known class
                      (:func:`quickstudy.stranger_score`).

    The share of wrong classes among all rows is at most 1 - ``coverage``; among the rows that got a
    class it is mostly lower, and nothing is promised.

    Raises ValueError where ``prediction_sets`` does, for ``false_alarms`` outside (0, 1), and with
    it for learners whose logits say nothing about strangers.
    """
    if false_alarms is not None:
        check_coverage(false_alarms, "false_alarms", "0.05 for one of twenty")
    calibration = calibration_of(predictor, calibration)
    bound = calibration.bound(coverage)
    line = None if false_alarms is None else calibration.stranger_bound(false_alarms)
    with torch.no_grad():
        logits = predictor(inputs)
    chosen = sets_of_logits(logits, bound, coverage).only
    if line is not None:
        strange = -logits.max(-1).values.double() > line
        chosen = chosen.where(~strange, NOT_SURE)
    return chosen
