"""Objectives: (learner, task) -> the scalar whose gradient is the meta-gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.backbones.norms import counting
from quickstudy.core import Examples, Learner, Task, TaskSpec
from quickstudy.tasks.examples import labelled, weighted_mean
from quickstudy.tasks.metrics import score


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


def answers(learner: Learner, task: Task) -> Tensor:
    """Predictions (queries, outputs) after adapting; norms count query rows as weighted."""
    predictor = learner(task.support, task.spec)
    with counting(task.query.weights):
        predictions: Tensor = predictor(task.query.inputs)
    return predictions


def query_loss(learner: Learner, task: Task) -> Outcome:
    """The mean loss of the adapted predictor on the queries: the default objective."""
    query = labelled(task.query)
    predictions = answers(learner, task._replace(query=query))
    return Outcome(mean_loss(predictions, query, task.spec), score(predictions.detach(), query))


def mean_loss(predictions: Tensor, rows: Examples, spec: TaskSpec, alike: bool = False) -> Tensor:
    """The mean loss of labelled ``rows`` as weighted: (..., n, outputs), (..., n, …) -> (...).

    ``alike``  a promise that all weights are one, which spares looking at them.
    """
    targets, lead = rows.targets, rows.weights.ndim - 1
    if lead:  # a loss is a function of rows, not of rows of many tasks
        predictions, targets = predictions.flatten(0, lead), targets.flatten(0, lead)
    losses = spec.loss(predictions, targets).view_as(rows.weights)
    return losses.mean(-1) if alike else weighted_mean(losses, rows.weights)


def objective_of(learner: Learner) -> Objective:
    """What training minimises: the learner's own objective, or the query loss."""
    return learner.objective or query_loss
