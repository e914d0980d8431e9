"""quickstudy, as ``fit`` uses it, without the optimiser's step."""

from __future__ import annotations

from torch import Tensor

import quickstudy as qs
from contest.work import (
    REPTILE_ROWS,
    Contest,
    Method,
    NotOffered,
    Tasks,
    Weights,
    Workload,
    gradient_of,
)
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import GRADIENT_MAKERS
from quickstudy.compute.memory import accumulate_within
from quickstudy.compute.prepare import prepare_stack
from quickstudy.core import Examples, Task
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.objectives import objective_of
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import as_stack
from quickstudy.training.plan import make_plan
from quickstudy.training.preflight import set_up


def two_workers(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """``fit(..., compute=Compute(workers=2))``: threads share the tasks, where they are looped."""
    return prepare(work, weights, tasks, qs.Compute(workers=2))


def one_worker(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """``fit(...)``; torch has its own threads."""
    return prepare(work, weights, tasks, qs.Compute())


def compiled(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """``fit(..., compute=Compute(compile=True))``, where that compiles anything."""
    return prepare(work, weights, tasks, qs.Compute(compile=True))


def prepare(
    work: Workload,
    weights: Weights,
    tasks: Tasks,
    compute: qs.Compute,
) -> Contest:
    """A step as ``fit(..., compute=compute)`` takes it."""
    learner = _learner(work).to(next(iter(weights.values())))  # its dtype and device
    learner.backbone.load_state_dict(weights)  # type: ignore[union-attr]
    set_up(learner)
    objective, stack = objective_of(learner), as_stack(_stack(work, tasks))
    two = _stack(work, Tasks(*(part[:2] for part in tasks)))
    plan = make_plan(learner, [two], objective, work.tasks, compute)
    if compute.compile and not plan.compiled:
        raise NotOffered(f"not compiled here: {plan.why}")
    code = None
    if plan.compiled:
        code = CompiledGradients(learner, objective, stack.task, GRADIENT_MAKERS[plan.mapping])

    def step() -> Weights:
        learner.zero_grad()
        accumulate_within(learner, [prepare_stack(learner, stack)], objective, plan, code)
        return gradient_of(learner, "backbone.")

    return step


def _learner(work: Workload) -> qs.Learner:
    """With the norm of the peers, whose statistics include other queries, unlike the default."""
    if work.image is None:
        return qs.MAML(qs.backbones.MLP(outputs=1), work.steps, work.rate)
    channels, side = work.image
    outputs = None if work.method is Method.PROTOTYPICAL else work.ways
    net = qs.backbones.Conv4(
        work.channels, "batch", in_channels=channels, image_size=side, outputs=outputs
    )
    if work.method is Method.PROTOTYPICAL:
        return qs.Prototypical(net)
    if work.method is Method.REPTILE:
        return qs.Reptile(net, work.steps, work.rate, update=sgd, batch=REPTILE_ROWS)
    if work.method is Method.FOMAML:
        return qs.MAML(net, work.steps, work.rate, FirstOrder())
    return qs.MAML(net, work.steps, work.rate)


def _stack(work: Workload, tasks: Tasks) -> Task:
    def counted(inputs: Tensor, targets: Tensor) -> Examples:
        weights = inputs.new_ones(inputs.shape[:2])
        return Examples(inputs, targets, weights, one_place(weights))

    spec = qs.regression() if work.image is None else qs.classification(work.ways)
    return Task(counted(*tasks[:2]), counted(*tasks[2:]), spec)
