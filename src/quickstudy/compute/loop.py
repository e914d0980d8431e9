"""One task after the other, or some at once: the way of computing a stack that is always right.

Several tasks at once are for a CPU: each worker is a thread of Python with one thread of torch. The
threads that torch keeps inside an operator wait for one another after each, which costs much where
feature maps are small, as those of a support set are. Tasks wait only for the end of a step.
Python's lock is free while an operator runs.

The first worker is the thread that asks: of what any other frees, glibc gives each block of more
than 64 MiB back to the system, such as feature maps of 75 queries of 84x84.

Workers are asked for, never chosen: modules that reach themselves through a closure or a hook would
reach the wrong one of several, random numbers come in an order that threads leave to chance, and
modes that torch keeps for each thread, such as autocast, do not reach the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from quickstudy.compute.gradients import as_outcome
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.stacks import unstack

Item = TypeVar("Item")
Result = TypeVar("Result")


def loop_gradients(
    workers: int, learner: Learner, stack: Task, objective: Objective, scale: int | Tensor
) -> Outcome:
    """Add the gradient of the tasks' summed loss to ``.grad``; their outcomes.

    ``scale``  what the losses are divided by, or a factor (tasks,) for each.
    """
    tasks = list(enumerate(unstack(stack)))
    work = partial(_in_turn, objective, scale)
    shares = map_in_threads(work, learner, tasks, workers)
    for _, gradients in shares:
        for parameter, gradient in zip(_trained(learner), gradients, strict=True):
            parameter.grad = _sum(parameter.grad, gradient)
    return _joined(in_task_order([outcomes for outcomes, _ in shares]))


def _in_turn(
    objective: Objective, scale: int | Tensor, learner: Learner, tasks: Sequence[tuple[int, Task]]
) -> tuple[list[Outcome], list[Tensor | None]]:
    outcomes: list[Outcome] = []
    parameters = _trained(learner)
    gradients: list[Tensor | None] = [None] * len(parameters)
    for place, task in tasks:
        outcome = as_outcome(objective(learner, task))
        loss = outcome.loss * scale[place] if isinstance(scale, Tensor) else outcome.loss / scale
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
        outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
    return outcomes, gradients


def tasks_gradients(learner: Learner, stack: Task, objective: Objective) -> tuple[Tensor, Outcome]:
    """The gradient of each task, flat (tasks, numbers of all trained parameters), and outcomes.

    A parameter that a task does not reach has a gradient of zeros there.
    """
    rows, outcomes, parameters = [], [], _trained(learner)
    for task in unstack(stack):
        outcome = as_outcome(objective(learner, task))
        found = torch.autograd.grad(outcome.loss, parameters, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                               for g, p in pairs]))  # fmt: skip
        outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
    return torch.stack(rows), _joined(outcomes)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(torch.stack(part) for part in zip(*outcomes, strict=True)))


def _trained(learner: Learner) -> list[Tensor]:
    return [p for p in learner.parameters() if p.requires_grad]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:  # cloned, since autograd may give several parameters one tensor
        return a if b is None else b.clone()
    return a + b


def map_in_threads(
    work: Callable[[Learner, Sequence[Item]], Result],
    learner: Learner,
    tasks: Sequence[Item],
    workers: int,
) -> list[Result]:
    """``work(learner, tasks[k::workers])`` of every worker k, all at once.

    Each has a learner of its own, whose parameters and buffers are those of ``learner``: adapted
    weights take the parameters' place in a module for a while, which no other thread may see.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [work(learner, tasks)]
    shared = {id(t): t for t in (*learner.parameters(), *learner.buffers())}
    replicas = [copy.deepcopy(learner, dict(shared)) for _ in range(workers)]
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def start(k: int) -> Result:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(gradients):  # each thread has its own mode
            return work(replicas[k], tasks[k::workers])

    try:
        with ThreadPoolExecutor(workers - 1, "quickstudy") as pool:
            others = [pool.submit(copy_context().run, start, k) for k in range(1, workers)]
            return [start(0), *(other.result() for other in others)]
    finally:
        torch.set_num_threads(threads)


def in_task_order(shares: Sequence[Sequence[Result]]) -> list[Result]:
    """What workers gave for each of their tasks, in the order of the tasks."""
    longest = max(map(len, shares))
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
