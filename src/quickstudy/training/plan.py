"""Before training: is the learner lawful, which way of mapping tasks is right and fast, and how
many tasks fit in memory at a time?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import nn

from quickstudy.base.errors import where_it_fits
from quickstudy.base.modules import convolves_on_cpu, device_of
from quickstudy.compute.allocation import keep_freed_memory
from quickstudy.compute.compiled import refuse_without_compiler
from quickstudy.compute.cost import Cost, cost_of_one_task, cost_over_tasks
from quickstudy.compute.engine import COMPOSITES, Mapping, Plan
from quickstudy.compute.memory import free_memory, one_task_must_fit
from quickstudy.contract.check import BrokenLaw, applicable, check_laws, doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective
from quickstudy.tasks.stacks import stack
from quickstudy.tasks.targets import check_targets
from quickstudy.training.equivalence import (
    difference_from_loop,
    few_queries,
    harm_of_bfloat16,
    in_double,
)
from quickstudy.training.precision import Precision, refuse_precision
from quickstudy.training.processes import refuse_processes

Engine = Literal["auto", "vmap", "loop"]


def made_ready(learner: Learner, task: Callable[[int], Task], tasks_per_step: int) -> Task:
    """Set ``learner`` up to train on ``task(0)``, ``task(1)``, …; gives the first two, stacked.

    Raises what :func:`quickstudy.training.fit.fit` raises before it plans: ValueError for fewer
    than one task a step, and what :func:`refuse_sorted` and :func:`check_lawful` raise.
    """
    if tasks_per_step < 1:
        raise ValueError(f"fit: tasks_per_step must be positive; found {tasks_per_step}.")
    set_up(learner)
    refuse_sorted(learner, (task(i) for i in range(8)))  # one may be so by chance
    check_lawful(learner, task(0))
    return stack([task(0), task(1)])


def check_lawful(learner: Learner, task: Task) -> None:
    """Refuse, before any training, a learner whose results would be silently wrong.

    Raises ValueError for one without trainable parameters, and
    :class:`quickstudy.contract.check.BrokenLaw` for running statistics updated in ``forward``, randomness
    in ``adapt``, predictions of a wrong shape, and, where undeclared, queries that see one another
    and rows of weight 0 that count; :class:`quickstudy.compute.memory.TaskTooLarge` where memory
    runs out. Judged in float64, or, where that does not fit, in the learner's own type.
    """
    if not any(parameter.requires_grad for parameter in learner.parameters()):
        raise ValueError(
            f"fit: {type(learner).__name__} has no trainable parameters, so there is nothing to "
            "learn. Use it as it is, or set requires_grad=True on some."
        )
    for name, module in learner.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training and module.running_mean is not None
        ):
            raise BrokenLaw(
                f"{name} is a {type(module).__name__} that updates running statistics in forward, "
                "so adapting would change the learner. Use a norm of quickstudy.backbones.norms "
                "(norm='group', 'support', 'batch' or 'running'), or build it with "
                "track_running_stats=False, or keep it in eval mode by overriding train()."
            )
    check_targets("query", task.query.targets, task.spec)
    small = few_queries(task, 2 * task.spec.outputs)
    laws = [law for law in applicable(learner) if law in _BEFORE_TRAINING]
    with one_task_must_fit():
        where_it_fits(
            lambda: _judge(in_double(learner), doubled(small), laws),
            lambda: _judge(copy.deepcopy(learner), small, laws),
        )


def _judge(learner: Learner, task: Task, laws: Sequence[str]) -> None:
    try:
        check_laws(learner, task, laws)
    except RuntimeError as error:
        if "mutate a captured Tensor" not in str(error):
            raise
        buffers = [name for name, _ in learner.named_buffers()]
        raise BrokenLaw(
            "adapt must change nothing in the module, but forward changes something in place "
            f"(its buffers are {', '.join(buffers) or 'none'}). Statistics that move by themselves "
            "do this: compute them anew in every pass, or freeze them."
        ) from error


def refuse_sorted(learner: Learner, tasks: Iterable[Task]) -> None:
    """A sequence whose classes always come in one order teaches the order, not the classes.

    Raises ValueError for a learner of sequences where all of ``tasks`` come class by class.
    """
    if "support_order_is_irrelevant" not in learner.exceptions:
        return
    targets = [task.support.targets for task in tasks]
    if any(t.is_floating_point() or len(t) < 3 for t in targets):
        return
    if all(bool((t.diff() >= 0).all()) for t in targets):
        raise ValueError(
            f"fit: {type(learner).__name__} reads its support rows as a sequence, but they come "
            "class by class, so it would learn their places. Draw tasks with "
            "episodes(..., shuffled=True)."
        )


_BEFORE_TRAINING = (
    "shape_is_right_and_finite",
    "adapt_is_pure",
    "queries_are_independent",
    "weight_zero_is_absent",
)
"""Laws without which results are silently wrong, and which take but a few adaptations to see."""


def set_up(learner: Learner) -> None:
    """Training mode, and on a CPU the layout and the allocation in which convolutions are fast."""
    learner.train()
    learner.progress = 1.0  # a plan is made for the whole of the learner
    if convolves_on_cpu(learner):
        keep_freed_memory()
        # Or each convolution would lay out its weights anew, and each step their gradients.
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


_CALLS_OF_VMAP = 2
"""An operator under vmap, and under grad inside it, takes about twice as long to call."""


def make_plan(
    learner: Learner,
    batch: Task,
    objective: Objective,
    tasks: int,
    engine: Engine = "auto",
    memory: int | None = None,
    workers: int = 1,
    compile: bool = False,
    processes: bool = False,
    precision: Precision = "float32",
) -> Plan:
    """How to compute steps of ``tasks`` tasks such as the two or more of ``batch``.

    ``engine``   "auto" takes the faster mapping that is proven to give the loop's gradient for this
                 learner; "vmap" insists and raises where it does not; "loop" is always right.
    ``memory``   bytes that the graphs of a chunk of tasks may hold, 1 or more; by default half of
                 the free.
    ``workers``  threads among which a loop shares its tasks: see
                 :mod:`quickstudy.compute.workers` for what they ask of learner and objective.
    ``processes``  have them be processes: see :mod:`quickstudy.training.processes`, likewise.
    ``compile``  compile mapped tasks where that, too, is proven: see
                 :mod:`quickstudy.compute.compiled` for what it asks of learner and objective.
    ``precision``  "float32" is the learner's own type; "bfloat16" is that of products and
                 convolutions where the gradient stays what it is nearly enough
                 (:data:`quickstudy.training.equivalence.LIKENESS`), else the plan says why it is not.

    What an objective looks at beside its arguments must not change while it trains, except
    :attr:`Learner.progress`: what is proven is proven of the objective as it is now.

    Raises ValueError for arguments out of range, for ``compile`` without a compiler or in bfloat16,
    RuntimeError where ``engine="vmap"`` insists on what is not right,
    :class:`quickstudy.compute.memory.TaskTooLarge` where a task does not fit in memory.
    """
    refuse_precision(precision)
    if workers < 1:
        raise ValueError(f"workers: must be 1 or more threads; found {workers}.")
    if processes:
        refuse_processes(learner, workers)
    if memory is not None and memory < 1:
        raise ValueError(f"memory: must be 1 or more bytes; found {memory}.")
    if engine not in ("auto", "vmap", "loop"):
        raise ValueError(f"engine: must be 'auto', 'vmap' or 'loop'; found {engine!r}.")
    if compile and engine == "loop":
        raise ValueError("compile: a loop is not compiled. Leave out compile, or engine='loop'.")
    if compile and precision == "bfloat16":
        raise ValueError(
            "compile: steps in bfloat16 are not compiled. Leave out compile, which is for small "
            "networks, or precision='bfloat16', which is for large ones."
        )
    if compile:
        refuse_without_compiler(device_of(learner))
    with one_task_must_fit():
        cost = cost_of_one_task(learner, batch, objective)
        axis = cost_over_tasks(learner, batch, objective)
    faster = axis is not None and axis.seconds(tasks) < cost.seconds(tasks, _CALLS_OF_VMAP)
    mapping, why = _choose(learner, batch, objective, engine, workers, cost, faster)
    if axis is not None and mapping is Mapping.TASK_AXIS:
        cost = axis
    if precision == "bfloat16":
        harm = harm_of_bfloat16(learner, batch, objective, mapping)
        if harm:
            why, precision = f"{why}; bfloat16 is not used, since {harm}", "float32"
    room = free_memory(device_of(learner)) // 2 if memory is None else memory
    fits = max(1, room // max(1, cost.bytes))
    if compile and mapping not in COMPOSITES:
        why, compile = f"{why}; this way is not compiled", False
    if mapping is Mapping.LOOP:
        workers = min(workers, tasks)
        why += f"; memory has room for {fits}" if fits < workers else ""
        workers = min(fits, workers)
        processes = processes and workers > 1
        return Plan(mapping, why, tasks, workers, processes=processes, precision=precision,
                    bytes=cost.bytes)  # fmt: skip
    problem = compile and difference_from_loop(learner, batch, mapping, objective, compile)
    if problem and engine == "vmap":
        raise RuntimeError(f"compile=True is not right for this learner: {problem}. Leave it out.")
    why += f"; not compiled, since {problem}" if problem else ""
    return Plan(mapping, why, min(fits, tasks), compiled=compile and not problem,
                precision=precision, bytes=cost.bytes)  # fmt: skip


def _choose(
    learner: Learner,
    batch: Task,
    objective: Objective,
    engine: Engine,
    workers: int,
    cost: Cost,
    faster_over_tasks: bool,
) -> tuple[Mapping, str]:
    if engine == "loop":
        return Mapping.LOOP, "asked for"
    if engine == "auto" and convolves_on_cpu(learner):
        if workers > 1:
            return Mapping.LOOP, "workers were asked for, and share the tasks of a loop"
        way = Mapping.FEATURES
        if not (learner.differentiates or difference_from_loop(learner, batch, way, objective)):
            return way, "one call of the backbone; equals the loop in float64"
        if cost.is_arithmetic:
            return Mapping.LOOP, f"{cost}: on a CPU, the feature maps of one task stay in the cache"
    ways = [Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP]
    if engine == "auto" and faster_over_tasks:
        ways.insert(0, Mapping.TASK_AXIS)
    problem = ""
    for way in ways:
        problem = difference_from_loop(learner, batch, way, objective) or ""
        if not problem:
            return way, "asked for" if engine == "vmap" else f"{cost}; equals the loop in float64"
    if engine == "vmap":
        raise RuntimeError(f"engine='vmap' is not right for this learner: {problem}. Use 'auto'.")
    return Mapping.LOOP, problem
