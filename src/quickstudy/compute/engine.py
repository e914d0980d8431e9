"""The engine: losses and the meta-gradient of the tasks of an optimiser step.

Learners are written for one task. The engine maps ``(support, query) -> loss`` over the tasks of a
stack by one of five mappings, all of which give the same gradient as the loop:

    task_axis   all tasks at once, by the learner's own ``over_tasks``
    vmap        the gradient of vmapped losses; for learners whose ``adapt`` takes no gradient
    features    the backbone once for the rows of all tasks, and vmap for the rest
    vmap_grad   vmap over per-task gradients, then their sum; for learners whose ``adapt`` takes
                gradients (differentiating *through* vmap(grad) is silently wrong in torch for
                some norms)
    loop        one task after the other, or several in threads; correct for everything that
                autograd can differentiate

A step is a list of stacks, one for each kind of task in it; each stack is computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.backbones.norms import ignores_weights
from quickstudy.base.door import inspected
from quickstudy.base.trees import map_tree
from quickstudy.base.weighting import uniform_weights
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.features import embedded
from quickstudy.compute.gradients import (
    GradientMaker,
    Parameters,
    as_outcome,
    of_each_task,
    of_one_graph,
    of_task_axis,
    outcome_over_tasks,
)
from quickstudy.compute.loop import (
    in_task_order,
    loop_gradients,
    map_in_threads,
    seeded,
)
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import Prepared, count_of, entries_at, in_step_order, kind_of
from quickstudy.core import Examples, Learner, Task
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.inspection import Inspection, inspect_stack
from quickstudy.tasks.stacks import count, map_task, unstack

GRADIENT_MAKERS: dict[Mapping, GradientMaker] = {
    Mapping.TASK_AXIS: of_task_axis,
    Mapping.VMAP: of_one_graph,
    Mapping.VMAP_GRAD: of_each_task,
}
"""The mappings that can be compiled."""


def accumulate(
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None = None,
    weights: Tensor | None = None,
) -> Outcome:
    """Add the gradient of the step's mean loss to ``.grad``; returns losses and scores (tasks,).

    ``plan``      how to compute: stacks are computed in chunks of ``plan.chunk`` tasks, to limit
                  memory, and kinds of task that are not in ``plan.kinds`` by the loop.
    ``compiled``  if given, is used for the stacks that it serves.
    ``weights``   (tasks,) factors on the losses; by default one over the number of tasks.
    """
    total = count_of(step)
    parts = []
    for prepared in step:
        stack_weights = None if weights is None else entries_at(weights, prepared.places)
        parts.append(
            _accumulate_stack(learner, prepared, objective, plan, compiled, stack_weights, total)
        )
    return Outcome(*(in_step_order(step, part) for part in zip(*parts, strict=True)))


def _accumulate_stack(
    learner: Learner,
    prepared: Prepared,
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None,
    weights: Tensor | None,
    total: int,
) -> Outcome:
    stack, plan = prepared.task, plan_for(plan, prepared.task)
    if prepared.dropout:
        plan, compiled = replace(plan, mapping=Mapping.LOOP), None
    functions: dict[Mapping, Callable[..., Outcome]] = {
        Mapping.TASK_AXIS: _task_axis,
        Mapping.VMAP: _vmap,
        Mapping.FEATURES: _features,
        Mapping.VMAP_GRAD: _vmap_grad,
        Mapping.LOOP: partial(loop_gradients, plan.workers, prepared.dropout),
    }
    compute = functions[plan.mapping]
    size = count(stack) if plan.mapping is Mapping.LOOP else plan.chunk
    with computing(learner, stack, prepared.inspection) as uniform:
        if compiled is not None and weights is None and compiled.serves(stack):
            compute = partial(_compiled, compiled, uniform)
        parts = [
            compute(learner, chunk, objective, total if factors is None else factors)
            for chunk, factors in chunks(stack, weights, size)
        ]
    if len(parts) == 1:
        return parts[0]
    return Outcome(torch.cat([p.loss for p in parts]), torch.cat([p.score for p in parts]))


def plan_for(plan: Plan, stack: Task) -> Plan:
    """``plan``, or a loop where its mapping was not checked for this kind of task."""
    if plan.kinds is None or plan.mapping is Mapping.LOOP or kind_of(stack) in plan.kinds:
        return plan
    return replace(plan, mapping=Mapping.LOOP, workers=1)


Scale = int | Tensor
"""The number of tasks, by which losses are divided, or a factor for each loss (tasks,)."""


def scaled_sum(losses: Tensor, scale: Scale) -> Tensor:
    """sum(losses) / number of tasks, or sum(factors * losses): ()."""
    return (scale * losses).sum() if isinstance(scale, Tensor) else losses.sum() / scale


def _task_axis(learner: Learner, stack: Task, objective: Objective, scale: Scale) -> Outcome:
    outcome = outcome_over_tasks(learner, stack, objective)
    scaled_sum(outcome.loss, scale).backward()
    return Outcome(outcome.loss.detach(), outcome.score)


def _vmap(learner: Learner, stack: Task, objective: Objective, scale: Scale) -> Outcome:
    outcome = vmap(_objective_of_parts(learner, objective, stack))(stack.support, stack.query)
    scaled_sum(outcome.loss, scale).backward()
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _features(learner: Learner, stack: Task, objective: Objective, scale: Scale) -> Outcome:
    without_backbone, features = embedded(learner, stack)
    return _vmap(without_backbone, features, objective, scale)


def _vmap_grad(learner: Learner, stack: Task, objective: Objective, scale: Scale) -> Outcome:
    # Detached, because torch.func.grad records its own graph; autograd would record another.
    detached = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
    factors, total = (scale, 1) if isinstance(scale, Tensor) else (None, scale)
    gradients = of_each_task(learner, objective, stack.spec, factors)
    found, outcome = gradients(detached, stack.support, stack.query)
    _add(learner, found, total)
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _compiled(
    compiled: CompiledGradients,
    uniform: bool,
    learner: Learner,
    stack: Task,
    _: Objective,
    total: int,
) -> Outcome:
    found, outcome = compiled(stack, uniform)
    _add(learner, found, total)
    return outcome


def _add(learner: Learner, gradients: Parameters, total: int) -> None:
    if not gradients:
        return
    parameters = dict(learner.named_parameters())
    shares = torch._foreach_div(list(gradients.values()), total)
    for name, share in zip(gradients, shares, strict=True):
        before = parameters[name].grad
        parameters[name].grad = share if before is None else before + share


def losses_of_tasks(learner: Learner, step: Sequence[Prepared], objective: Objective) -> Outcome:
    """Losses and scores (tasks,) without gradients, one task after the other."""

    def outcome(learner: Learner, task: Task) -> Outcome:
        found = as_outcome(objective(learner, task))
        return Outcome(found.loss.detach(), found.score.detach())

    loop = Plan(Mapping.LOOP, "one task after the other", 1)
    parts = [map_tasks(outcome, p.task, learner, loop, p.inspection, p.dropout) for p in step]
    return Outcome(*(in_step_order(step, part) for part in zip(*parts, strict=True)))


def map_tasks(
    function: Callable[[Learner, Task], Any],
    stack: Task,
    learner: Learner,
    plan: Plan,
    inspection: Inspection | None = None,
    seeds: Sequence[int] = (),
) -> Any:
    """``function`` of every task without gradients, a tree stacked (tasks, ...): for evaluation.

    ``inspection``  see :func:`computing`.
    ``seeds``       of dropout masks, for a loop; none are dropped in evaluation mode.
    """

    def each(learner: Learner, tasks: Sequence[tuple[int, Task]]) -> list[Any]:
        return [function(seeded(learner, seeds, place), task) for place, task in tasks]

    with torch.no_grad(), computing(learner, stack, inspection):
        if plan.mapping is Mapping.LOOP:
            tasks = list(enumerate(unstack(stack)))
            shares = map_in_threads(each, learner, tasks, plan.workers)
            return map_tree(lambda *parts: torch.stack(parts), *in_task_order(shares))
        parts = [
            vmap(lambda support, query: function(learner, Task(support, query, stack.spec)))(
                chunk.support, chunk.query
            )
            for chunk, _ in chunks(stack, None, plan.chunk)
        ]
    return map_tree(lambda *leaves: torch.cat(leaves), *parts)


def _objective_of_parts(
    learner: Learner, objective: Objective, stack: Task
) -> Callable[[Examples, Examples], Outcome]:
    return lambda support, query: as_outcome(objective(learner, Task(support, query, stack.spec)))


def chunks(stack: Task, factors: Tensor | None, size: int) -> Iterator[tuple[Task, Tensor | None]]:
    """Chunks of ``size`` tasks of the stack, each with its factors, if given."""
    tasks = count(stack)
    if size >= tasks:  # slicing would take longer than a small network's step
        yield stack, factors
        return
    for start in range(0, tasks, size):
        part = slice(start, start + size)
        chunk = map_task(lambda leaf, part=part: leaf[part], stack)
        yield chunk, None if factors is None else factors[part]


@contextmanager
def computing(
    learner: Learner, stack: Task, inspection: Inspection | None = None
) -> Iterator[bool]:
    """A context for computing tasks of ``stack``; yields whether its weights are uniform.

    ``inspection``  the result of :func:`inspect_stack`, if the stack has been validated already.

    Raises ValueError for row weights that the learner would ignore, and for targets that do not
    fit the answer.
    """
    uniform = (inspection or inspect_stack(stack)).uniform
    reason = None if uniform else miscounts_rows(learner)
    if reason:
        raise ValueError(
            "tasks of different sizes, and unlabelled rows, need a learner for which a row of "
            f"weight 0 is absent, but in {type(learner).__name__} {reason}. Use a norm of "
            "quickstudy.backbones.norms, or tasks of one size, fully labelled."
        )
    # Uniform weights let every norm and loss use a plain mean. Decided here, outside vmap, since
    # values cannot be read inside it.
    promise = uniform_weights() if uniform else nullcontext()
    with _differentiable_attention(learner), promise, inspected():
        yield uniform


def _differentiable_attention(learner: Learner) -> AbstractContextManager[None]:
    """Use torch's plain attention where needed: its fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH) if learner.differentiates else nullcontext()


def miscounts_rows(learner: Learner) -> str | None:
    """Why ``learner`` does not treat rows of weight 0 as absent; None where it does."""
    declared = learner.exceptions.get("weight_zero_is_absent")
    if declared:
        return declared
    ignoring = ignores_weights(learner)
    return f"the statistics of {', '.join(ignoring[:3])} ignore row weights" if ignoring else None
