"""Gradients of stacks of tasks as pure functions of the learner's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from quickstudy.base.replica import call_with
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Answer, Examples, Learner, Task, TaskSpec
from quickstudy.objectives import Objective, Outcome, mean_loss, query_loss, score_of
from quickstudy.tasks.examples import counted_weights

Parameters = dict[str, Tensor]
Gradients = Callable[[Parameters, Examples, Examples], tuple[Parameters, Outcome]]
"""(parameters, support, query) of a stack -> the gradient of the summed loss, and the outcomes.

Parameters that no loss depends on get no gradient, as in autograd: with a gradient of zeros, weight
decay and momentum would change them.
"""

GradientMaker = Callable[[Learner, Objective, TaskSpec], Gradients]
"""A function that makes :data:`Gradients` for a learner: :func:`of_each_task`, …"""


def as_outcome(value: Tensor | Outcome) -> Outcome:
    """The outcome of an objective; if it gave the loss alone, the score is NaN."""
    if isinstance(value, Outcome):
        return value
    if not isinstance(value, Tensor):
        raise ValueError(
            "objective: must give a scalar tensor or an Outcome; found "
            f"{type(value).__name__}. Return the loss of the task."
        )
    return Outcome(value, torch.full_like(value.detach(), torch.nan))


def of_each_task(
    learner: Learner, objective: Objective, spec: TaskSpec, factors: Tensor | None = None
) -> Gradients:
    """vmap over the gradients of single tasks, then their sum, weighted by ``factors`` (tasks,)."""

    def gradients(
        parameters: Parameters, support: Examples, query: Examples
    ) -> tuple[Parameters, Outcome]:
        loss = TaskLoss(learner, objective, spec)
        over_tasks = vmap(grad_and_value(loss, has_aux=True), in_dims=(None, 0, 0))
        found, (losses, scores) = over_tasks(parameters, support, query)
        summed = {
            name: g.sum(0) if factors is None else torch.tensordot(factors, g, 1)
            for name, g in found.items() if name in loss.reached
        }  # fmt: skip
        return summed, Outcome(losses, scores)

    return gradients


def of_one_graph(learner: Learner, objective: Objective, spec: TaskSpec) -> Gradients:
    """The gradient of the vmapped losses: correct where ``adapt`` takes no gradient itself."""

    def gradients(
        parameters: Parameters, support: Examples, query: Examples
    ) -> tuple[Parameters, Outcome]:
        loss = TaskLoss(learner, objective, spec)

        def total(parameters: Parameters) -> tuple[Tensor, Outcome]:
            losses, scores = vmap(loss, in_dims=(None, 0, 0))(parameters, support, query)
            return losses.sum(), Outcome(losses, scores)

        found, (_, outcome) = grad_and_value(total, has_aux=True)(parameters)
        return {n: g for n, g in found.items() if n in loss.reached}, outcome

    return gradients


def of_task_axis(learner: Learner, objective: Objective, spec: TaskSpec) -> Gradients:
    """The gradient of :func:`outcome_over_tasks`."""

    def gradients(
        parameters: Parameters, support: Examples, query: Examples
    ) -> tuple[Parameters, Outcome]:
        over_tasks = _Module(learner, partial(outcome_over_tasks, objective=objective))
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            named = {f"learner.{name}": p for name, p in leaves.items()}
            outcome: Outcome = call_with(over_tasks, named, Task(support, query, spec))
            total = outcome.loss.sum()
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        reached = {n: g for n, g in zip(leaves, found, strict=True) if g is not None}
        return reached, Outcome(outcome.loss.detach(), outcome.score)

    return gradients


@runtime_checkable
class PredictsOverTasks(Protocol):
    """A learner with its own, faster method for many tasks at once."""

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) after adapting to each of many support sets, all at once.

        ``support`` and ``inputs`` have a first axis of tasks: (tasks, rows, ...). The result must
        equal mapping ``adapt`` and ``predict``. None where nothing is faster than that.
        """


def outcome_over_tasks(learner: Learner, stack: Task, objective: Objective) -> Outcome:
    """Losses and scores (tasks,) by the learner's ``over_tasks``.

    Raises TypeError where the learner does not support it, and for any objective but the query
    loss, since ``over_tasks`` gives only predictions.
    """
    if objective is not query_loss:
        raise TypeError("over_tasks gives only predictions, but the objective may need more")
    support, query, spec = stack
    predictions = None
    if isinstance(learner, PredictsOverTasks):
        predictions = learner.over_tasks(support, query.inputs, spec)
    if predictions is None:
        raise TypeError(f"{type(learner).__name__} has no over_tasks for these tasks")
    loss = _losses_over_tasks(predictions, support, query, spec.answer)
    if spec.answer.loss_is_score:
        return Outcome(loss, loss.detach())
    score = vmap(lambda p, q: score_of(p, q, spec.answer))(predictions.detach(), query)
    return Outcome(loss, score)


def _losses_over_tasks(
    predictions: Tensor, support: Examples, query: Examples, answer: Answer
) -> Tensor:
    """(tasks,): the mean loss of each task's queries."""
    if weights_are_uniform():  # one call for the rows of all tasks, faster than vmap
        elements = answer.element_losses(predictions.flatten(0, 1), query.targets.flatten(0, 1))
        rows = elements if elements.ndim == 1 else elements.flatten(1).mean(1)
        return rows.view(query.weights.shape).mean(-1)

    def of_one(predictions: Tensor, support: Examples, query: Examples) -> Tensor:
        present = answer.present(support.targets, counted_weights(support, answer))
        return mean_loss(predictions, query, answer, present)

    return vmap(of_one)(predictions, support, query)


class TaskLoss:
    """(parameters, support, query) of one task -> its loss and score.

    ``reached``  names of the parameters that the loss depends on: ``torch.func`` gives the others
                 gradients of zeros, so hooks record which ones have a gradient.
    """

    def __init__(self, learner: Learner, objective: Objective, spec: TaskSpec) -> None:
        self._module, self._spec = _Module(learner, objective), spec
        self.reached: set[str] = set()

    def __call__(
        self,
        parameters: Parameters,
        support: Examples,
        query: Examples,
        constants: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Outcome:
        """The outcome of the task; ``constants`` are parameters without a gradient."""
        for name, parameter in parameters.items():
            parameter.register_hook(lambda _, name=name: self.reached.add(name))
        named = {f"learner.{name}": p for name, p in {**constants, **parameters}.items()}
        outcome: Outcome = call_with(self._module, named, Task(support, query, self._spec))
        return outcome


class _Module(nn.Module):
    """The objective as a module, so that ``call_with`` can replace the learner's parameters."""

    def __init__(self, learner: Learner, objective: Objective) -> None:
        super().__init__()
        self.learner, self.objective = learner, objective

    def forward(self, task: Task) -> Outcome:
        return as_outcome(self.objective(self.learner, task))
