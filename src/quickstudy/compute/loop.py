"""One task after the other, or some at once: the way of computing a batch that is always right."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.compute.gradients import as_outcome
from quickstudy.compute.workers import in_order, shared_out
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.stacks import unstack
from quickstudy.training import processes

if TYPE_CHECKING:
    from quickstudy.compute.engine import Plan


def looped(plan: Plan, learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    """Add the gradient of the tasks' summed loss over ``total`` to ``.grad``; their outcomes."""
    share = processes.shared_out if plan.processes else shared_out
    shares = share(partial(_in_turn, objective, total), learner, unstack(batch), plan.workers)
    for _, gradients in shares:
        for parameter, gradient in zip(_trained(learner), gradients, strict=True):
            parameter.grad = _sum(parameter.grad, gradient)
    outcomes = in_order([outcomes for outcomes, _ in shares])
    return Outcome(
        torch.stack([o.loss for o in outcomes]), torch.stack([o.score for o in outcomes])
    )


def _in_turn(
    objective: Objective, total: int, learner: Learner, tasks: Sequence[Task]
) -> tuple[list[Outcome], list[Tensor | None]]:
    outcomes: list[Outcome] = []
    parameters = _trained(learner)
    gradients: list[Tensor | None] = [None] * len(parameters)
    with right_attention(learner):  # which another process has to be told
        for task in tasks:
            outcome = as_outcome(objective(learner, task))
            found = torch.autograd.grad(outcome.loss / total, parameters, allow_unused=True)
            gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
            outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
    return outcomes, gradients


def _trained(learner: Learner) -> list[Tensor]:
    return [p for p in learner.parameters() if p.requires_grad]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:  # cloned, since autograd may give several parameters one tensor
        return a if b is None else b.clone()
    return a + b


def right_attention(learner: Learner) -> AbstractContextManager[None]:
    """Second derivatives of attention exist only in its plain mathematical form."""
    if learner.differentiates:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
