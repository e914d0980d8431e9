"""The mapping "loop": one task after the other, or several in threads; always correct.

Threads are for CPUs: each worker is a Python thread that runs torch with one thread. By default
torch splits each operator over threads and synchronises them after each, which is slow for small
feature maps, as in support sets. Workers synchronise only at the end of an optimiser step. Python's
global lock is released while an operator runs.

The first worker is the calling thread: glibc returns freed blocks of more than 64 MiB (feature maps
of 75 queries of 84x84) to the system for all other threads, which is slow.

Workers are used only on request: random numbers are drawn in an arbitrary order, and modes that
torch stores per thread, for example autocast, are not passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from quickstudy.base.dropout import with_dropout
from quickstudy.base.replica import replica_of
from quickstudy.compute.gradients import as_outcome
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.stacks import unstack

Item = TypeVar("Item")
Result = TypeVar("Result")


def loop_gradients(
    workers: int,
    seeds: Sequence[int],
    learner: Learner,
    stack: Task,
    objective: Objective,
    scale: int | Tensor,
) -> Outcome:
    """Add the gradient of the tasks' scaled losses to ``.grad``; returns their outcomes.

    ``seeds``  of the dropout masks of each task; empty for a learner without dropout.
    ``scale``  a number by which losses are divided, or factors (tasks,).
    """
    tasks = list(enumerate(unstack(stack)))
    work = partial(_one_after_another, objective, scale, seeds)
    shares = map_in_threads(work, learner, tasks, workers)
    for _, gradients in shares:
        for parameter, gradient in zip(_trained(learner), gradients, strict=True):
            parameter.grad = _sum(parameter.grad, gradient)
    return stack_outcomes(in_task_order([outcomes for outcomes, _ in shares]))


def _one_after_another(
    objective: Objective,
    scale: int | Tensor,
    seeds: Sequence[int],
    learner: Learner,
    tasks: Sequence[tuple[int, Task]],
) -> tuple[list[Outcome], list[Tensor | None]]:
    outcomes: list[Outcome] = []
    parameters = _trained(learner)
    gradients: list[Tensor | None] = [None] * len(parameters)
    for place, task in tasks:
        outcome = as_outcome(objective(seeded(learner, seeds, place), task))
        loss = outcome.loss * scale[place] if isinstance(scale, Tensor) else outcome.loss / scale
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
        outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
    return outcomes, gradients


def seeded(learner: Learner, seeds: Sequence[int], place: int) -> Learner:
    """The learner that computes the task at ``place``, with the dropout masks of its seed."""
    return with_dropout(learner, seeds[place]) if seeds else learner


def stack_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of single tasks as one (tasks,)."""
    return Outcome(*(torch.stack(part) for part in zip(*outcomes, strict=True)))


def _trained(learner: Learner) -> list[Tensor]:
    return [p for p in learner.parameters() if p.requires_grad]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:  # clone: autograd may return one tensor for several parameters
        return a if b is None else b.clone()
    return a + b


def map_in_threads(
    work: Callable[[Learner, Sequence[Item]], Result],
    learner: Learner,
    tasks: Sequence[Item],
    workers: int,
) -> list[Result]:
    """Run ``work(learner, tasks[k::workers])`` in a thread for each worker k; their results.

    Each worker has a replica of the learner, which shares its tensors, because a learner may keep
    values in its modules while it computes.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [work(learner, tasks)]
    replicas = [replica_of(learner) for _ in range(workers)]
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def start(k: int) -> Result:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(gradients):  # the mode is stored per thread
            return work(replicas[k], tasks[k::workers])

    try:
        with ThreadPoolExecutor(workers - 1, "quickstudy") as pool:
            others = [pool.submit(copy_context().run, start, k) for k in range(1, workers)]
            return [start(0), *(other.result() for other in others)]
    finally:
        torch.set_num_threads(threads)


def in_task_order(shares: Sequence[Sequence[Result]]) -> list[Result]:
    """The workers' results per task, in the order of the tasks."""
    longest = max(map(len, shares))
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
