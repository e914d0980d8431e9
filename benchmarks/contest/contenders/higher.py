"""higher: ``innerloop_ctx`` over torch's SGD, as its MAML example uses it."""

from __future__ import annotations

from importlib import import_module

import torch

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

higher = import_module("higher")


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One inner loop for each task.

    Without higher gradients the fast weights are not connected to the initial ones, so for first
    order the gradients at the adapted weights are summed here.
    """
    only(work, Method.MAML, Method.FOMAML, library="higher")
    net, loss = loaded(work, weights), loss_of(work)
    optimiser = torch.optim.SGD(net.parameters(), lr=work.rate)
    second_order = work.method is Method.MAML

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            with higher.innerloop_ctx(
                net, optimiser, copy_initial_weights=False, track_higher_grads=second_order
            ) as (fast, inner):
                for _ in range(work.steps):
                    inner.step(loss(fast(task.support), task.support_targets))
                outer = loss(fast(task.query), task.query_targets) / work.tasks
                if second_order:
                    outer.backward()
                    continue
                gradients = torch.autograd.grad(outer, list(fast.parameters()))
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter.grad = (
                        gradient if parameter.grad is None else parameter.grad + gradient
                    )
        return gradient_of(net)

    return step
