"""Whether a row is a stranger: of none of the classes that a predictor knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.pixels import Pixels
from quickstudy.base.door import received
from quickstudy.core import Examples, Predictor
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.tasks.examples import counted_weights, take

_NORMALISED = 1e-4
"""How far from 0 the logarithm of a sum of probabilities may be."""


def stranger_score(predictor: Predictor, inputs: Any, support: Examples | None = None) -> Tensor:
    """How strange each of ``inputs`` (n, ...) is to ``predictor``: (n,), higher is stranger.

    Without ``support``, minus the largest logit of the classes that the predictor knows: for
    learners that compare, the distance to the nearest class mean. With it, the squared distance,
    in the learner's feature space, to the nearest row of ``support``, which must be the rows that
    the predictor was adapted to. Where to draw the line depends on learner and data:
    :func:`quickstudy.abstain` draws it by a calibration.

    It is never a softmax, which only compares the known classes with one another: a stranger far
    from all classes, but less far from one of them, has a probability near 1 there.

    For classes (n, ways), yes-no labels (n, k), and for each pixel of pictures (n, h, w).

    Raises ValueError for other answers; without ``support``, for a learner that gives logarithms
    of probabilities (their sum is 1 in every row, so that the largest is a softmax), and with it,
    for a learner without a feature space.

    Reference: the largest logit as in Hendrycks et al. (2022), Scaling Out-of-Distribution
    Detection for Real-World Settings; the nearest row as in Sun et al. (2022), Out-of-Distribution
    Detection with Deep Nearest Neighbors (there the k-th nearest).
    """
    answer = predictor.spec.answer
    clusters = isinstance(answer, Classes) and answer.clusters
    if not isinstance(answer, (Classes, Labels, Pixels)) or clusters:
        raise ValueError(
            "stranger_score: needs a predictor of classes, labels or pixels, because a stranger is "
            f"of no known class; found {answer}. Use a predictor of one of these."
        )
    with torch.no_grad():
        if support is not None:
            return _nearest(predictor, inputs, support)
        logits: Tensor = predictor(inputs)
    if not isinstance(answer, Labels) and is_normalised(logits):
        raise ValueError(
            f"stranger_score: the outputs of {type(predictor.learner).__name__} are logarithms of "
            "probabilities, and the largest of them tells known classes from one another, not "
            "strangers. Give the rows that it was adapted to, as support=."
        )
    return -logits.max(-1).values


def is_normalised(logits: Tensor) -> bool:
    """Whether the exponentials of ``logits`` (n, ..., ways) sum to 1 in every row."""
    return bool(logits.numel()) and bool((logits.logsumexp(-1).abs() < _NORMALISED).all())


def _nearest(predictor: Predictor, inputs: Any, support: Examples) -> Tensor:
    """(n,) squared distances to the nearest row of ``support`` that counts."""
    learner, state = predictor.learner, predictor.state
    rows = take(support, counted_weights(support, predictor.spec.answer) > 0)
    if not len(rows.weights):
        raise ValueError(
            "stranger_score: support has no labelled row. Give those the predictor was adapted to."
        )
    embed = None if learner.transductive else getattr(learner, "embed", None)
    known, asked = (
        None if embed is None else embed(state, received(learner, each, what, state))
        for each, what in ((rows.inputs, "support"), (inputs, "predictor"))
    )
    if known is None or asked is None or known.ndim != 2:
        raise ValueError(
            f"stranger_score: {type(learner).__name__} has no features in which single rows can be "
            "compared. Leave support out, or use a learner such as Prototypical."
        )
    return squared_euclidean(asked, known).clamp_min(0).min(-1).values
