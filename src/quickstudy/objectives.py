"""Objectives: (learner, task) -> the scalar whose gradient is the meta-gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Answer, Examples, Learner, Predictor, State, Task
from quickstudy.tasks.examples import counted_weights, weighted_mean


class Outcome(NamedTuple):
    """What one task gave: the loss to differentiate, and the score to show beside it."""

    loss: Tensor
    score: Tensor


Objective = Callable[[Learner, Task], Tensor | Outcome]


@runtime_checkable
class Scheduled(Protocol):
    """A learner or objective of which something changes as training goes on."""

    @property
    def scheduled(self) -> bool:
        """Whether anything really changes with the settings it has."""

    def set_progress(self, progress: float) -> None:
        """Told by the trainer before each step: the share of training done, in [0, 1].

        At the end it is 1.0.
        """


def is_scheduled(part: Learner | Objective) -> bool:
    """Whether ``part`` is :class:`Scheduled`, and changes with the settings it has."""
    return isinstance(part, Scheduled) and part.scheduled


def set_progress(learner: Learner, objective: Objective, progress: float) -> None:
    """Tell both how far training is, where they change with it."""
    for part in (learner, objective):
        if isinstance(part, Scheduled) and part.scheduled:
            part.set_progress(progress)


def predict_queries(learner: Learner, task: Task) -> Any:
    """Predictions for the queries after adapting; norms count query rows as weighted."""
    return ask(learner(task.support, task.spec), task.query)


def ask(predictor: Predictor, query: Examples) -> Any:
    """Predictions for ``query``; norms count its rows as weighted, and unlabelled ones not."""
    return predictor(query.inputs, counted_weights(query, predictor.spec.answer))


def query_loss(learner: Learner, task: Task) -> Outcome:
    """The mean loss of the adapted predictor on the queries: the default objective.

    Queries of a class that the support set does not show are left out of the loss, where the
    learner's state says which classes are present: no learner could name them. The score counts
    them as wrong.
    """
    predictor = learner(task.support, task.spec)
    predictions, present = ask(predictor, task.query), present_in(predictor.state)
    answer, uniform = task.spec.answer, weights_are_uniform()
    loss = mean_loss(predictions, task.query, answer, present, uniform)
    if answer.loss_is_score:
        return Outcome(loss, loss.detach())
    return Outcome(loss, score_of(predictions, task.query, answer))


def mean_loss(
    predictions: Any,
    rows: Examples,
    answer: Answer,
    present: Tensor | None = None,
    uniform: bool = False,
) -> Tensor:
    """The mean loss () of ``rows`` as weighted, over their known elements; 0 without any.

    ``present``  (outputs,) classes that could be answered; elements of others are left out.
    ``uniform``  a promise that all weights are one and all elements known: a plain mean.
    """
    if uniform:
        losses = answer.element_losses(predictions, rows.targets)
        return (losses if losses.ndim == 1 else losses.flatten(1).mean(1)).mean(-1)
    losses, share = answer.loss_and_share(predictions, answer.hide_absent(rows.targets, present))
    return weighted_mean(losses, rows.weights * share)


def present_in(state: State) -> Tensor | None:
    """The classes (outputs,) that a predictor can name; None where its state does not say."""
    return state.get("present") if isinstance(state, dict) else None


def score_of(predictions: Any, query: Examples, answer: Answer) -> Tensor:
    """The answer's first score (); NaN for one that is not computed while training."""
    score = answer.score
    if not score.while_training:
        return torch.full_like(query.weights[0], torch.nan)
    return score.value(score.statistic(map_tree(Tensor.detach, predictions), query))


def objective_of(learner: Learner) -> Objective:
    """What training minimises: the learner's own objective, or the query loss."""
    return learner.objective or query_loss
