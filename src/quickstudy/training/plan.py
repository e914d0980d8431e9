"""Which way of mapping tasks is right and fast, how many tasks fit in memory at a time, and what
that comes to in words."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence

from quickstudy.base.modules import convolves_on_cpu, device_of
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.compute.cost import Cost, cost_of_one_task, cost_over_tasks
from quickstudy.compute.engine import GRADIENT_MAKERS
from quickstudy.compute.features import tasks_per_call
from quickstudy.compute.memory import free_memory, one_task_must_fit
from quickstudy.compute.plan import Compute, Engine, Mapping, Plan
from quickstudy.compute.prepare import kind_of
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.objectives import Objective, is_scheduled, objective_of
from quickstudy.training.equivalence import difference_from_loop
from quickstudy.training.preflight import prepare

_CALLS_OF_VMAP = 2
"""An operator under vmap, and under grad inside it, takes about twice as long to call."""

_WORTH_CALLING = 0.05
"""Of the arithmetic, what calling operators once more for fewer tasks may cost."""

_NO_WORKERS = "none: they share only the tasks of a loop"


def make_plan(
    learner: Learner,
    step: Sequence[Task],
    objective: Objective,
    tasks: int,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
) -> Plan:
    """How to compute steps of ``tasks`` tasks such as those of ``step``, stacks of given rows.

    A mapping is taken where it is proven for every kind of task in ``step``; tasks of other kinds,
    should they come later, are looped.

    What an objective looks at beside its arguments must not change while it trains, except where it
    is :class:`quickstudy.objectives.Scheduled`: what is proven is proven of the objective as it is
    now. So what is scheduled is neither compiled nor mapped by ``task_axis`` or ``features``, which
    could be right now and wrong later.

    Raises ValueError for ``compile`` without a compiler, RuntimeError where ``engine="vmap"``
    insists on what is not right, and :class:`quickstudy.compute.memory.TaskTooLarge` where a task
    does not fit in memory.
    """
    engine, workers, compile = compute.engine, compute.workers, compute.compile
    if compile:
        refuse_without_compiler(device_of(learner))
    change = _scheduled_change(learner, objective)
    with one_task_must_fit():
        costs = [cost_of_one_task(learner, stack, objective) for stack in step]
        cost = max(costs, key=lambda each: each.bytes)
        axis = None if change else _over_tasks(learner, step, objective)
    faster = axis is not None and axis.seconds(tasks) < cost.seconds(tasks, _CALLS_OF_VMAP)
    mapping, why = _choose(
        learner, step, objective, engine, workers, cost, faster, change is not None
    )
    if axis is not None and mapping is Mapping.TASK_AXIS:
        cost = axis
    room = free_memory(device_of(learner)) // 2 if compute.memory is None else compute.memory
    fits = max(1, room // max(1, cost.bytes))
    if change and engine == "auto":
        why += f"; neither task_axis nor features, since {change}"
    if compile and mapping not in GRADIENT_MAKERS:
        why, compile = f"{why}; this way is not compiled", False
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
    kinds = tuple(dict.fromkeys(map(kind_of, step)))
    return Plan(mapping, why, min(fits, tasks), compiled=compile and not problem, bytes=cost.bytes,
                kinds=kinds)  # fmt: skip


def _tasks_worth_a_call(step: Sequence[Task], cost: Cost) -> int:
    """As few tasks at a time as the backbone takes in one call, so that few graphs are held.

    More where so much follows the backbone that calling its operators would take over a twentieth
    of the arithmetic.
    """
    calls, arithmetic = cost.seconds(0, _CALLS_OF_VMAP), cost.seconds(1) - cost.seconds(0)
    enough = math.ceil(calls / (_WORTH_CALLING * arithmetic)) if arithmetic else sys.maxsize
    return max(enough, *(tasks_per_call(stack) for stack in step))


def _over_tasks(learner: Learner, step: Sequence[Task], objective: Objective) -> Cost | None:
    """The largest cost over tasks; None where one of the stacks has no such way."""
    costs = [cost_over_tasks(learner, stack, objective) for stack in step]
    there = [cost for cost in costs if cost is not None]
    return max(there, key=lambda each: each.bytes) if len(there) == len(costs) else None


def _scheduled_change(learner: Learner, objective: Objective) -> str | None:
    """What changes as training goes on; None where nothing does."""
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
        way, apart = Mapping.FEATURES, not (learner.differentiates or scheduled)
        if apart and not difference_from_loop(learner, step, way, objective):
            return way, "one call of the backbone; equals the loop in float64"
        if cost.is_arithmetic:
            return Mapping.LOOP, f"{cost}: on a CPU, the feature maps of one task stay in the cache"
    ways = [Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP]
    if engine == "auto" and faster_over_tasks:
        ways.insert(0, Mapping.TASK_AXIS)
    problem = ""
    for way in ways:
        problem = difference_from_loop(learner, step, way, objective) or ""
        if not problem:
            return way, "asked for" if engine == "vmap" else f"{cost}; equals the loop in float64"
    if engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {problem}. Use 'auto'.")
    return Mapping.LOOP, problem


def explain(
    learner: Learner,
    source: TaskSource,
    tasks_per_step: int = 16,
    *,
    objective: Objective | None = None,
    seed: int = 0,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
) -> str:
    """What :func:`quickstudy.training.fit.fit` would choose for these arguments, line by line.

    The learner is left as it is. Raises what ``fit`` raises before its first step.
    """
    learner, objective = copy.deepcopy(learner), objective or objective_of(learner)
    device = device_of(learner)

    first = prepare(learner, objective, source, seed, tasks_per_step)
    plan = make_plan(learner, first, objective, tasks_per_step, compute)
    return "\n".join((
        f"mapping    {plan.mapping.value}: {plan.why}",
        f"tasks      {plan.at_once} at a time, of {tasks_per_step} a step",
        f"workers    {plan.workers if plan.mapping is Mapping.LOOP else _NO_WORKERS}",
        f"memory     {_graph(plan.bytes)}; {_size(free_memory(device))} free on {device}",
        f"compiled   {'yes' if plan.compiled else 'no'}",
        f"recompute  {_recompute(learner)}",
    ))  # fmt: skip


def _graph(count: int) -> str:
    return f"{_size(count)} at most for the graph of a task" if count else "not counted"


def _size(count: int) -> str:
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / unit:.1f} {name}"


def _recompute(learner: Learner) -> str:
    if getattr(getattr(learner, "meta_gradient", None), "recompute", False):
        return "yes: graphs of inner steps are made again in the backward pass"
    return "no" if learner.differentiates else "no inner steps"
