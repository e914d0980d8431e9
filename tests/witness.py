"""Reference computations of MAML's meta-gradient, without torch.func and without the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Plan
from quickstudy.compute.prepare import Prepared, prepare_stack
from quickstudy.core import Examples, Learner, Task
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import as_stack, stack

TOLERANCE = 1e-9
Weights = dict[str, Tensor]
Forward = Callable[[Weights, Examples, Examples | None], Tensor]
"""(weights, rows, support) -> predictions; ``support`` is given where ``rows`` are queries."""


def classification_loss(logits: Tensor, rows: Examples) -> Tensor:
    chosen = logits[torch.arange(len(logits)), rows.targets]
    return (rows.weights * (logits.exp().sum(1).log() - chosen)).sum() / rows.weights.sum()


def regression_loss(predictions: Tensor, rows: Examples) -> Tensor:
    errors = ((predictions - rows.targets) ** 2).mean(1)
    return (rows.weights * errors).sum() / rows.weights.sum()


def adapted_loss(
    forward: Forward,
    weights: Weights,
    task: Task,
    steps: int,
    rate: float,
    *,
    first_order: bool = False,
    adapts: str = "*",
    create_graph: bool = True,
) -> Tensor:
    """The query loss after ``steps`` gradient steps, computed directly from the definition."""
    loss_of = classification_loss if task.support.targets.ndim == 1 else regression_loss
    fast = dict(weights)
    names = [name for name in weights if fnmatch(name, adapts)]
    for _ in range(steps):
        loss = loss_of(forward(fast, task.support, None), task.support)
        gradients = torch.autograd.grad(
            loss, [fast[n] for n in names], create_graph=create_graph and not first_order
        )
        fast |= {n: fast[n] - rate * g for n, g in zip(names, gradients, strict=True)}
    return loss_of(forward(fast, task.query, task.support), task.query)


def independent_gradient(
    forward: Forward, net: nn.Module, task: Task, steps: int, rate: float, **options: Any
) -> Tensor:
    weights = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    loss = adapted_loss(forward, weights, task, steps, rate, **options)
    return flat(torch.autograd.grad(loss, list(weights.values())))


def as_step(learner: Learner, stacked: Task) -> list[Prepared]:
    """A stacked task in the form that the engine computes."""
    return [prepare_stack(learner, as_stack(stacked))]


def engine_gradient(learner: Learner, tasks: list[Task], plan: Plan) -> Tensor:
    learner.zero_grad()
    accumulate(learner, as_step(learner, stack(tasks)), query_loss, plan)
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()])


def flat(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.norm())


def in_general_position(net: nn.Module) -> nn.Module:
    """Random float64 weights: with weights of 0 or 1 some wrong terms would not be noticed."""
    generator = torch.Generator().manual_seed(1)
    net = net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            shift = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * shift)
    return net


def vectors_task(seed: int) -> Task:
    """Three classes of vectors (24,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 24, generator=generator, dtype=torch.float64)

    def sample(n: int) -> Examples:
        noise = torch.randn(3 * n, 24, generator=generator, dtype=torch.float64)
        inputs = centres.repeat(n, 1) + 0.5 * noise
        weights = torch.ones(3 * n, dtype=torch.float64)
        return Examples(inputs, torch.arange(3).repeat(n), weights, one_place(weights))

    return Task(sample(2), sample(3), qs.classification(3))
