"""Choosing how training computes its steps: the mapping, and how many tasks fit in memory."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from quickstudy.balancing.combine import (
    Combine,
    WeighsGradients,
    check_combine,
    mean,
    reads_gradients,
)
from quickstudy.base.dropout import active_dropout, dropout_off
from quickstudy.base.memory import free_memory
from quickstudy.base.modules import convolves_on_cpu, device_of
from quickstudy.base.words import in_bytes
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.compute.cost import Cost, cost_of_one_task, cost_over_tasks
from quickstudy.compute.engine import GRADIENT_MAKERS
from quickstudy.compute.features import tasks_per_call
from quickstudy.compute.jacobian import shared_and_own
from quickstudy.compute.memory import TaskTooLarge, one_task_must_fit
from quickstudy.compute.plan import Compute, Engine, Mapping, Plan
from quickstudy.compute.prepare import kind_of
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.objectives import Objective, is_scheduled, objective_of
from quickstudy.training.equivalence import difference_from_loop, rows_differ_from_loop
from quickstudy.training.preflight import first_tasks, prepare

_CALLS_OF_VMAP = 2
"""An operator call takes about twice as long under vmap, also under grad inside of vmap."""

_WORTH_CALLING = 0.05
"""Longest time for calling the operators of a chunk of tasks, as a share of its arithmetic."""

_NO_WORKERS = "none: they share only the tasks of a loop"


_ALONE = "combine reads the gradient of each task"


_DROPOUT = "dropout has masks of its own for each task, so they are computed one after the other"


def make_plan(
    learner: Learner,
    step: Sequence[Task],
    objective: Objective,
    tasks: int,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
    combine: Combine = mean,
) -> Plan:
    """A plan for training steps of ``tasks`` tasks; ``step`` has stacks of example tasks.

    A mapping is used if its gradient equals the loop's for every kind of task in ``step``. Tasks of
    other kinds, if they occur later, are looped. If ``combine`` reads the gradients of single
    tasks, these must be the loop's, each of them; they are neither compiled nor looped in threads.

    This check holds only for the objective as it is now, so nothing that it reads, except for its
    arguments, may change while it trains. If it does, learner or objective must be
    :class:`quickstudy.objectives.Scheduled`: these are neither compiled nor mapped by ``task_axis``
    or ``features``, which could be correct now and wrong later.

    Raises ValueError for ``compile`` without a compiler, RuntimeError where ``engine="vmap"`` gives
    a wrong gradient, and :class:`quickstudy.compute.memory.TaskTooLarge` where one task, or the
    gradients of all tasks that ``combine`` reads, do not fit in memory.
    """
    engine, workers, compile = compute.engine, compute.workers, compute.compile
    if compile:
        refuse_without_compiler(device_of(learner))
    change = _scheduled_change(learner, objective)
    dropping = bool(active_dropout(learner))
    if dropping and engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {_DROPOUT}. Use 'auto'.")
    with one_task_must_fit(), dropout_off(learner):
        costs = [cost_of_one_task(learner, stack, objective) for stack in step]
        cost = max(costs, key=lambda each: each.bytes)
        if reads_gradients(combine):
            return _plan_of_gradients(learner, step, objective, tasks, compute, combine, cost)
        if dropping:
            room = compute.memory or free_memory(device_of(learner)) // 2
            workers = max(1, min(workers, tasks, room // max(1, cost.bytes)))
            return Plan(Mapping.LOOP, _DROPOUT, tasks, workers, bytes=cost.bytes)
        axis_cost = None if change else _over_tasks(learner, step, objective)
    vmap_seconds = cost.seconds(tasks, _CALLS_OF_VMAP)
    faster = axis_cost is not None and axis_cost.seconds(tasks) < vmap_seconds
    mapping, why = _choose(
        learner, step, objective, engine, workers, cost, faster, change is not None
    )
    if axis_cost is not None and mapping is Mapping.TASK_AXIS:
        cost = axis_cost
    room = free_memory(device_of(learner)) // 2 if compute.memory is None else compute.memory
    fits = max(1, room // max(1, cost.bytes))
    if change and engine == "auto":
        why += f"; neither task_axis nor features, since {change}"
    if compile and mapping not in GRADIENT_MAKERS:
        why, compile = f"{why}; this mapping is not compiled", False
    if mapping is Mapping.LOOP:
        workers = min(workers, tasks)
        why += f"; memory has room for {fits}" if fits < workers else ""
        return Plan(mapping, why, tasks, min(fits, workers), bytes=cost.bytes)
    if mapping is Mapping.FEATURES:
        fits = min(fits, _tasks_worth_a_call(step, cost))
    problem = None
    if compile:
        problem = change or difference_from_loop(learner, step, mapping, objective, compile)
    if problem and engine == "vmap":
        raise RuntimeError(f"compile=True is not right for this learner: {problem}. Leave it out.")
    why += f"; not compiled, since {problem}" if problem else ""
    plan = Plan(mapping, why, min(fits, tasks), compiled=compile and not problem, bytes=cost.bytes)
    return checked_for(plan, step)


def _plan_of_gradients(
    learner: Learner,
    step: Sequence[Task],
    objective: Objective,
    tasks: int,
    compute: Compute,
    combine: Combine,
    cost: Cost,
) -> Plan:
    """A plan for a combiner of gradients: by ``vmap`` of a task's gradient, or by a loop."""
    free = free_memory(device_of(learner))
    room = free // 2 if compute.memory is None else compute.memory
    row = sum(p.nbytes for p in shared_and_own(learner)[0].values())
    parts = max(1, -(-tasks * row // room))
    if parts > 1 and not isinstance(combine, WeighsGradients):
        needed = tasks * row
        if needed > (free if compute.memory is None else compute.memory):
            raise TaskTooLarge(
                f"fit: combine reads the gradients of all tasks of a step, {in_bytes(needed)} for "
                f"{tasks} tasks; found room for {in_bytes(room)}. Use a balancer that reads their "
                "Gramian alone, such as qs.balancing.UPGrad(), or fewer tasks in a step."
            )
        parts = 1
    mapping, problem = Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP, None
    if active_dropout(learner):
        problem = _DROPOUT
    elif compute.engine == "loop":
        problem = "a loop was asked for"
    elif compute.engine == "auto" and convolves_on_cpu(learner) and cost.is_arithmetic:
        problem = f"{cost}: on a CPU, the feature maps of one task stay in the cache"
    problem = (
        problem
        or rows_differ_from_loop(learner, step, mapping, objective)
        or difference_from_loop(learner, step, mapping, objective)
    )
    if problem and compute.engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {problem}. Use 'auto'.")
    if problem:
        return Plan(Mapping.LOOP, f"{_ALONE}; {problem}", tasks, bytes=cost.bytes, parts=parts)
    fits = max(1, room // max(1, cost.bytes + row // parts))
    why = f"{_ALONE}; {cost}; each equals the loop's in float64"
    plan = Plan(mapping, why, min(fits, tasks), bytes=cost.bytes, parts=parts)
    return checked_for(plan, step)


def checked_for(plan: Plan, step: Sequence[Task]) -> Plan:
    """``plan``, whose mapping was checked for the kinds of task in ``step``."""
    looped = plan.mapping is Mapping.LOOP
    return replace(plan, kinds=None if looped else tuple(dict.fromkeys(map(kind_of, step))))


def checked_again(
    plan: Plan,
    learner: Learner,
    step: Sequence[Task],
    objective: Objective,
    combine: Combine = mean,
) -> Plan:
    """A resumed run's ``plan``; ValueError where it does not give the gradient of a loop.

    It was checked when the run was started, but a file may be hostile, and libraries change.
    """
    problem = None
    if plan.mapping in (Mapping.TASK_AXIS, Mapping.FEATURES):
        problem = _scheduled_change(learner, objective)
    if plan.compiled and plan.mapping not in GRADIENT_MAKERS:
        problem = "this mapping is not compiled"
    if active_dropout(learner) and plan.mapping is not Mapping.LOOP:
        problem = _DROPOUT
    if plan.mapping is not Mapping.LOOP:
        problem = problem or difference_from_loop(learner, step, plan.mapping, objective)
    if plan.mapping is not Mapping.LOOP and reads_gradients(combine):
        problem = problem or rows_differ_from_loop(learner, step, plan.mapping, objective)
    if problem:
        raise ValueError(f"its plan computes steps by {plan.mapping.value}, but {problem}")
    return checked_for(plan, step)


def _tasks_worth_a_call(step: Sequence[Task], cost: Cost) -> int:
    """The fewest tasks that fill one call of the backbone, so that few graphs are in memory.

    More where calling the operators after the backbone would take over a twentieth of the time of
    the arithmetic.
    """
    calls, arithmetic = cost.seconds(0, _CALLS_OF_VMAP), cost.seconds(1) - cost.seconds(0)
    enough = math.ceil(calls / (_WORTH_CALLING * arithmetic)) if arithmetic else sys.maxsize
    return max(enough, *(tasks_per_call(stack) for stack in step))


def _over_tasks(learner: Learner, step: Sequence[Task], objective: Objective) -> Cost | None:
    """The largest cost of ``over_tasks``; None where it does not support one of the stacks."""
    costs = [cost_over_tasks(learner, stack, objective) for stack in step]
    known = [cost for cost in costs if cost is not None]
    return max(known, key=lambda each: each.bytes) if len(known) == len(costs) else None


def _scheduled_change(learner: Learner, objective: Objective) -> str | None:
    """Which part changes in the course of training; None where none does."""
    changing = [type(part).__name__ for part in (learner, objective) if is_scheduled(part)]
    return f"{changing[0]} changes as training goes on" if changing else None


def _choose(
    learner: Learner,
    step: Sequence[Task],
    objective: Objective,
    engine: Engine,
    workers: int,
    cost: Cost,
    faster_over_tasks: bool,
    scheduled: bool,
) -> tuple[Mapping, str]:
    if engine == "loop":
        return Mapping.LOOP, "asked for"
    if engine == "auto" and convolves_on_cpu(learner):
        if workers > 1:
            return Mapping.LOOP, "workers were asked for, and share the tasks of a loop"
        possible = not (learner.differentiates or scheduled)
        if possible and not difference_from_loop(learner, step, Mapping.FEATURES, objective):
            return Mapping.FEATURES, "one call of the backbone; equals the loop in float64"
        if cost.is_arithmetic:
            return Mapping.LOOP, f"{cost}: on a CPU, the feature maps of one task stay in the cache"
    mappings = [Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP]
    if engine == "auto" and faster_over_tasks:
        mappings.insert(0, Mapping.TASK_AXIS)
    problem = ""
    for mapping in mappings:
        problem = difference_from_loop(learner, step, mapping, objective) or ""
        if not problem:
            why = "asked for" if engine == "vmap" else f"{cost}; equals the loop in float64"
            return mapping, why
    if engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {problem}. Use 'auto'.")
    return Mapping.LOOP, problem


def explain(
    learner: Learner,
    source: TaskSource,
    tasks_per_step: int = 16,
    *,
    objective: Objective | None = None,
    combine: Combine = mean,
    seed: int = 0,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
) -> str:
    """How :func:`quickstudy.training.fit.fit` would compute with these arguments, as text.

    The learner is not changed. Raises what ``fit`` raises before its first step.
    """
    check_combine(combine)
    learner, objective = copy.deepcopy(learner), objective or objective_of(learner)
    device = device_of(learner)

    first = prepare(learner, objective, first_tasks(source, seed), tasks_per_step)
    plan = make_plan(learner, first, objective, tasks_per_step, compute, combine)
    return "\n".join((
        f"mapping    {plan.mapping.value}: {plan.why}",
        f"tasks      {plan.at_once} at a time, of {tasks_per_step} a step",
        f"workers    {plan.workers if plan.mapping is Mapping.LOOP else _NO_WORKERS}",
        f"memory     {_graph(plan.bytes)}; {in_bytes(free_memory(device))} free on {device}",
        f"compiled   {'yes' if plan.compiled else 'no'}",
        f"recompute  {_recompute(learner)}",
    ))  # fmt: skip


def _graph(count: int) -> str:
    return f"{in_bytes(count)} at most for the graph of a task" if count else "not counted"


def _recompute(learner: Learner) -> str:
    if getattr(getattr(learner, "meta_gradient", None), "recompute", False):
        return "yes: graphs of inner steps are computed again in the backward pass"
    return "no" if learner.differentiates else "no inner steps"
