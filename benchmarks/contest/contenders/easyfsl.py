"""easyfsl: ``PrototypicalNetworks``, as its episodic training example uses it."""

from __future__ import annotations

from importlib import import_module

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

PrototypicalNetworks = import_module("easyfsl.methods").PrototypicalNetworks


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other."""
    only(work, Method.PROTOTYPICAL, library="easyfsl")
    learner, loss = PrototypicalNetworks(loaded(work, weights)), loss_of(work)

    def step() -> Weights:
        learner.zero_grad()
        for task in tasks.each():
            learner.process_support_set(task.support, task.support_targets)
            (loss(learner(task.query), task.query_targets) / work.tasks).backward()
        return gradient_of(learner, "backbone.")

    return step
