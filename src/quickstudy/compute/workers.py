"""Several tasks at once on a CPU: each worker a thread of Python with one thread of torch.

The threads that torch keeps inside an operator wait for one another after each, which costs much
where feature maps are small, as those of a support set are. Tasks wait only for the end of a step.
Python's lock is free while an operator runs.

The first worker is the thread that asks: of what any other frees, glibc gives each block of more
than 64 MiB back to the system, such as feature maps of 75 queries of 84x84.

It is asked for, never chosen: modules that reach themselves through a closure or a hook would reach
the wrong one of several, random numbers come in an order that threads leave to chance, and modes
that torch keeps for each thread, such as autocast, do not reach the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

from quickstudy.core import Learner, Task

Result = TypeVar("Result")


def shared_out(
    work: Callable[[Learner, Sequence[Task]], Result],
    learner: Learner,
    tasks: Sequence[Task],
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


def in_order(shares: Sequence[Sequence[Result]]) -> list[Result]:
    """What workers gave for each of their tasks, in the order of the tasks."""
    longest = max(map(len, shares))
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
