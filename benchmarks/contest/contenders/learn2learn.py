"""learn2learn: ``MAML.clone`` and ``adapt``, and ``PrototypicalClassifier``, as its examples do."""

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

MAML = import_module("learn2learn.algorithms").MAML
PrototypicalClassifier = import_module("learn2learn.nn").PrototypicalClassifier


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other."""
    only(work, Method.MAML, Method.FOMAML, Method.PROTOTYPICAL, library="learn2learn")
    return (_metric if work.method is Method.PROTOTYPICAL else _adapted)(work, weights, tasks)


def _adapted(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    first_order = work.method is Method.FOMAML
    maml = MAML(loaded(work, weights), lr=work.rate, first_order=first_order)
    loss = loss_of(work)

    def step() -> Weights:
        maml.zero_grad()
        for task in tasks.each():
            learner = maml.clone()
            for _ in range(work.steps):
                learner.adapt(loss(learner(task.support), task.support_targets))
            (loss(learner(task.query), task.query_targets) / work.tasks).backward()
        return gradient_of(maml, "module.")

    return step


def _metric(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    net, loss, classifier = loaded(work, weights), loss_of(work), PrototypicalClassifier()

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            classifier.fit_(net(task.support), task.support_targets)
            (loss(classifier(net(task.query)), task.query_targets) / work.tasks).backward()
        return gradient_of(net)

    return step
