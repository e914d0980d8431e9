"""No library: ``for task in tasks`` with autograd, as written in plain torch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contest.work import (
    REPTILE_ROWS,
    Contest,
    Method,
    Tasks,
    Weights,
    Workload,
    gradient_of,
    loaded,
    loss_of,
)


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other, each graph freed before the next."""
    net = loaded(work, weights)
    backward = {
        Method.MAML: _adapted_backward,
        Method.FOMAML: _adapted_backward,
        Method.PROTOTYPICAL: _prototypical_backward,
        Method.REPTILE: _reptile_backward,
    }[work.method]

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            backward(work, net, task)
        return gradient_of(net)

    return step


def _adapted_backward(work: Workload, net: nn.Module, task: Tasks) -> None:
    loss, fast = loss_of(work), Weights(net.named_parameters())
    for _ in range(work.steps):
        inner = loss(functional_call(net, fast, task.support), task.support_targets)
        recorded = work.method is Method.MAML
        gradients = torch.autograd.grad(inner, list(fast.values()), create_graph=recorded)
        fast = {n: w - work.rate * g for (n, w), g in zip(fast.items(), gradients, strict=True)}
    outer = loss(functional_call(net, fast, task.query), task.query_targets)
    (outer / work.tasks).backward()


def _prototypical_backward(work: Workload, net: nn.Module, task: Tasks) -> None:
    support: Tensor = net(task.support)
    means = torch.stack([support[task.support_targets == c].mean(0) for c in range(work.ways)])
    differences = net(task.query).unsqueeze(1) - means
    logits = -differences.square().sum(-1)
    (loss_of(work)(logits, task.query_targets) / work.tasks).backward()


def _reptile_backward(work: Workload, net: nn.Module, task: Tasks) -> None:
    """A copy of the network and torch's optimiser, as the paper's algorithm 2 reads."""
    rows = torch.cat((task.support, task.query))
    targets = torch.cat((task.support_targets, task.query_targets))
    fast = copy.deepcopy(net)
    optimiser = torch.optim.SGD(fast.parameters(), lr=work.rate)
    for k in range(work.steps):
        batch = slice(k * REPTILE_ROWS, (k + 1) * REPTILE_ROWS)
        optimiser.zero_grad()
        loss_of(work)(fast(rows[batch]), targets[batch]).backward()
        optimiser.step()
    for start, end in zip(net.parameters(), fast.parameters(), strict=True):
        moved = (start.detach() - end.detach()) / work.tasks
        start.grad = moved if start.grad is None else start.grad + moved
