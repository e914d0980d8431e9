"""How training would compute its steps, in words, without training."""

from __future__ import annotations

import copy

from quickstudy.base.modules import device_of
from quickstudy.compute.engine import Mapping, Plan
from quickstudy.compute.memory import free_memory
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.objectives import Objective, objective_of
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import to_device
from quickstudy.training.plan import Engine, made_ready, make_plan
from quickstudy.training.precision import Precision


def explain(
    learner: Learner,
    source: TaskSource,
    tasks_per_step: int = 16,
    *,
    objective: Objective | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    memory: int | None = None,
    workers: int = 1,
    compile: bool = False,
    processes: bool = False,
    precision: Precision = "float32",
) -> str:
    """What :func:`quickstudy.training.fit.fit` would choose for these arguments, line by line.

    The learner is left as it is. Raises what ``fit`` raises before its first step.
    """
    learner, objective = copy.deepcopy(learner), objective or objective_of(learner)
    device = device_of(learner)

    def task(index: int) -> Task:
        return to_device(draw(source, seed, index), device)

    two = made_ready(learner, task, tasks_per_step)
    plan = make_plan(learner, two, objective, tasks_per_step, engine, memory, workers, compile,
                     processes, precision)  # fmt: skip
    return "\n".join((
        f"mapping    {plan.mapping.value}: {plan.why}",
        f"tasks      {plan.at_once} at a time, of {tasks_per_step} a step",
        f"workers    {_workers(plan)}",
        f"memory     {_graph(plan.bytes)}; {_size(free_memory(device))} free on {device}",
        f"compiled   {'yes' if plan.compiled else 'no'}",
        f"recompute  {_recompute(learner)}",
        f"precision  {_precision(plan)}",
    ))  # fmt: skip


def _workers(plan: Plan) -> str:
    if plan.mapping is not Mapping.LOOP:
        return "none: they share only the tasks of a loop"
    return f"{plan.workers} processes" if plan.processes else str(plan.workers)


def _graph(count: int) -> str:
    return f"{_size(count)} at most for the graph of a task" if count else "not counted"


def _size(count: int) -> str:
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / unit:.1f} {name}"


def _precision(plan: Plan) -> str:
    if plan.precision == "bfloat16":
        return "products and convolutions in bfloat16"
    return "the learner's own"


def _recompute(learner: Learner) -> str:
    if getattr(getattr(learner, "meta_gradient", None), "recompute", False):
        return "yes: graphs of inner steps are made again in the backward pass"
    return "no" if learner.differentiates else "no inner steps"
