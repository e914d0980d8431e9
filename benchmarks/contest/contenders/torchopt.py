"""TorchOpt: ``MetaSGD``, as its MAML example uses it; its functional ``sgd`` for first order."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn
from torch.func import functional_call

from contest.work import (
    Contest,
    Method,
    Tasks,
    Weights,
    Workload,
    gradient_of,
    loaded,
    loss_of,
    only,
)

torchopt = import_module("torchopt")


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other."""
    only(work, Method.MAML, Method.FOMAML, library="TorchOpt")
    net = loaded(work, weights)
    return (_second_order if work.method is Method.MAML else _first_order)(work, net, tasks)


def _second_order(work: Workload, net: nn.Module, tasks: Tasks) -> Contest:
    inner, loss = torchopt.MetaSGD(net, lr=work.rate), loss_of(work)
    start = [torchopt.extract_state_dict(part, by="reference") for part in (net, inner)]
    own = dict(net.named_parameters())  # adapting replaces them

    def step() -> Weights:
        for parameter in own.values():
            parameter.grad = None
        for task in tasks.each():
            for _ in range(work.steps):
                inner.step(loss(net(task.support), task.support_targets))
            (loss(net(task.query), task.query_targets) / work.tasks).backward()
            for part, state in zip((net, inner), start, strict=True):
                torchopt.recover_state_dict(part, state)
        return gradient_of(net)

    return step


def _first_order(work: Workload, net: nn.Module, tasks: Tasks) -> Contest:
    """The meta-optimisers always record second derivatives; the functional ones do not have to."""
    optimiser, loss = torchopt.sgd(lr=work.rate), loss_of(work)

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            names, fast = zip(*net.named_parameters(), strict=True)
            state = optimiser.init(fast)
            for _ in range(work.steps):
                own = dict(zip(names, fast, strict=True))
                inner = loss(functional_call(net, own, task.support), task.support_targets)
                gradients = torch.autograd.grad(inner, fast)
                updates, state = optimiser.update(gradients, state, inplace=False)
                fast = torchopt.apply_updates(fast, updates, inplace=False)
            own = dict(zip(names, fast, strict=True))
            outer = loss(functional_call(net, own, task.query), task.query_targets)
            (outer / work.tasks).backward()
        return gradient_of(net)

    return step
