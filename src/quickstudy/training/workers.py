"""Several tasks at once on a CPU: each worker a thread of Python with one thread of torch.

The threads that torch keeps inside an operator wait for one another after each, which costs much
where feature maps are small, as those of a support set are. Tasks wait only for the end of a step.
Python's lock is free while an operator runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch
from torch import nn

from quickstudy.core import Learner, Task
from quickstudy.modules import convolves_on_cpu

Result = TypeVar("Result")


def workers_for(learner: Learner) -> int:
    """Threads that can take tasks of ``learner`` side by side: torch's, where convolutions run.

    One where Python's own work dominates, whose lock lets one thread run at a time, and where
    dropout draws numbers, whose order threads would leave to chance.
    """
    draws = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p for m in learner.modules())
    return 1 if draws or not convolves_on_cpu(learner) else torch.get_num_threads()


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
        with ThreadPoolExecutor(workers, "quickstudy") as pool:
            parts = [pool.submit(copy_context().run, start, k) for k in range(workers)]
            return [part.result() for part in parts]
    finally:
        torch.set_num_threads(threads)


def in_order(shares: Sequence[Sequence[Result]]) -> list[Result]:
    """What workers gave for each of their tasks, in the order of the tasks."""
    longest = max(map(len, shares))
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
