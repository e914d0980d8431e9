"""Objectives: functions (learner, task) -> the scalar whose gradient is the meta-gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from quickstudy.base.trees import concatenate, has_shape, map_tree, shapes
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Answer, Examples, Learner, NamedExamples, Predictor, State, Task
from quickstudy.tasks.examples import counted_weights, weighted_mean


class Outcome(NamedTuple):
    """The result for one task: the loss to differentiate, and a score to display."""

    loss: Tensor
    score: Tensor


Objective = Callable[[Learner, Task], Tensor | Outcome]


@runtime_checkable
class Scheduled(Protocol):
    """A learner or objective with a setting that changes in the course of training."""

    @property
    def scheduled(self) -> bool:
        """Whether anything changes under its current settings."""

    def set_progress(self, progress: float) -> None:
        """Set the share of training that is done, in [0, 1]; the trainer calls it.

        It is called before each optimiser step, and with 1.0 at the end.
        """


def is_scheduled(part: Learner | Objective) -> bool:
    """Whether ``part`` is :class:`Scheduled` and changes under its current settings."""
    return isinstance(part, Scheduled) and part.scheduled


def set_progress(learner: Learner, objective: Objective, progress: float) -> None:
    """Set the progress of learner and objective, where they are scheduled."""
    for part in (learner, objective):
        if isinstance(part, Scheduled) and part.scheduled:
            part.set_progress(progress)


def predict_queries(learner: Learner, task: Task) -> Any:
    """Predictions for the queries after adapting; batch statistics use the rows' weights."""
    return predict_rows(learner(task.support, task.spec), task.query)


def predict_rows(predictor: Predictor, query: Examples) -> Any:
    """Predictions for ``query``; in batch statistics, rows count by weight, unlabelled ones not.

    Raises ValueError for predictions of a wrong shape.
    """
    answer = predictor.spec.answer
    predictions = predictor(query.inputs, counted_weights(query, answer))
    check_prediction_shape(predictions, query.targets, answer)
    return predictions


def check_prediction_shape(predictions: Any, targets: Any, answer: Answer) -> None:
    """ValueError where predictions for rows with these targets have a wrong shape.

    A loss or score might broadcast it: (n,) predictions and (n, 1) targets give n² differences.
    """
    expected = answer.prediction_shape(targets)
    if isinstance(predictions, Tensor) and predictions.shape == expected:
        return  # the common case, in a microsecond
    if not has_shape(predictions, expected):
        wanted = str(expected).replace("Ellipsis", "...")
        raise ValueError(
            f"predict: {answer} asks for predictions of shape {wanted} for these queries; found "
            f"{shapes(predictions)}. Reshape what predict, or its backbone, returns."
        )


def query_loss(learner: Learner, task: Task) -> Outcome:
    """The mean loss of the adapted predictor on the queries: the default objective.

    If the learner's state holds ``present``, queries of a class that is absent from the support set
    are left out of the loss, since no learner could predict that class. The score counts them as
    wrong.
    """
    predictor = learner(task.support, task.spec)
    predictions, present = predict_rows(predictor, task.query), present_in(predictor.state)
    answer, uniform = task.spec.answer, weights_are_uniform()
    loss = mean_loss(predictions, task.query, answer, present, uniform)
    if answer.loss_is_score:
        return Outcome(loss, loss.detach())
    return Outcome(loss, score_of(predictions, task.query, answer))


def all_rows_loss(learner: Learner, task: Task) -> Outcome:
    """The mean loss over all rows of the task, support and query; the score is that of the queries.

    For a learner whose predictions for the task depend on none of its rows: each can teach.
    """
    support, query, spec = task
    support = support.rows if isinstance(support, NamedExamples) else support
    predictor = learner(task.support, spec)
    together = shapes(map_tree(lambda leaf: leaf[0], support.inputs)) == shapes(
        map_tree(lambda leaf: leaf[0], query.inputs)
    )
    if together:  # one pass
        both = predict_rows(predictor, concatenate(support, query))
        n = len(support.weights)
        parts = [map_tree(lambda leaf: leaf[:n], both), map_tree(lambda leaf: leaf[n:], both)]
    else:  # rows of different sizes, such as graphs
        parts = [predict_rows(predictor, rows) for rows in (support, query)]
    losses, counts = [], []
    for predictions, rows in zip(parts, (support, query), strict=True):
        of_rows, share = spec.answer.loss_and_share(predictions, rows.targets)
        losses.append(of_rows)
        counts.append(rows.weights * share)
    loss = weighted_mean(torch.cat(losses), torch.cat(counts))
    return Outcome(loss, score_of(parts[1], query, spec.answer))


def mean_loss(
    predictions: Any,
    rows: Examples,
    answer: Answer,
    present: Tensor | None = None,
    uniform: bool = False,
) -> Tensor:
    """The weighted mean loss () of ``rows``, over their known elements; 0 without any.

    ``present``  (outputs,): classes in the support set; elements of other classes are left out.
    ``uniform``  whether all weights are 1 and all elements known, so that a plain mean is right.

    Raises ValueError for predictions of a wrong shape.
    """
    check_prediction_shape(predictions, rows.targets, answer)
    if uniform:
        losses = answer.element_losses(predictions, rows.targets)
        return (losses if losses.ndim == 1 else losses.flatten(1).mean(1)).mean(-1)
    losses, share = answer.loss_and_share(predictions, answer.hide_absent(rows.targets, present))
    return weighted_mean(losses, rows.weights * share)


def present_in(state: State) -> Tensor | None:
    """(outputs,): the classes that a predictor can predict; None where its state has no entry."""
    return state.get("present") if isinstance(state, dict) else None


def score_of(predictions: Any, query: Examples, answer: Answer) -> Tensor:
    """The answer's first score (); NaN for one that is not computed while training."""
    score = answer.score
    if not score.while_training:
        return torch.full_like(query.weights[0], torch.nan)
    return score.value(score.statistic(map_tree(Tensor.detach, predictions), query))


def objective_of(learner: Learner) -> Objective:
    """The training objective: the learner's own, or the query loss."""
    return learner.objective or query_loss
