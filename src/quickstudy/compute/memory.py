"""Memory of training steps: free memory, fewer tasks at a time when it runs out, and malloc.

Feature maps are megabytes large. By default glibc returns such blocks to the system when they are
freed, so the kernel maps and clears new pages for every operator's result: at 84x84 this takes a
third to a half of a training step. :func:`keep_freed_memory` avoids it.

Threads other than the main one still return blocks of more than 64 MiB, which do not fit into
glibc's per-thread heaps. A single heap (M_ARENA_MAX) would avoid that, but only if set before any
other thread has run, and it slows MAML's steps by a tenth at 28x28, so we do not set it.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from quickstudy.base.errors import first_line, out_of_memory
from quickstudy.base.modules import device_of
from quickstudy.base.words import count
from quickstudy.compute.compiled import CannotCompile, CompiledGradients
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import Prepared
from quickstudy.core import Learner
from quickstudy.objectives import Objective, Outcome

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>


class TaskTooLarge(MemoryError):
    """The graph of one task alone does not fit in memory; the message names remedies."""


def accumulate_within(
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None = None,
    weights: Tensor | None = None,
) -> tuple[Outcome, Plan]:
    """:func:`accumulate`; if memory runs out, try again with half as many tasks at a time.

    If the step cannot be compiled, it is computed without compiling. Returns the outcome and the
    plan that was used, with a warning if it differs from ``plan``. Gradients are the same as if
    that plan had been used from the start.

    Raises :class:`TaskTooLarge` where a single task does not fit.
    """
    before = [p.grad if p.grad is None else p.grad.clone() for p in learner.parameters()]
    fitting = plan
    while True:
        try:
            code = compiled if fitting.compiled else None
            outcome = accumulate(learner, step, objective, fitting, code, weights)
            break
        except CannotCompile as error:
            why = f"not compiled, since {error}"
            warnings.warn(f"steps are {why}. Results are the same, up to rounding.", stacklevel=2)
            fitting = replace(fitting, compiled=False, why=f"{fitting.why}; {why}")
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if fitting.at_once == 1:
                raise _too_large(error) from error
            fitting = _halved(fitting)
        # After the except block, since the error holds the graph that did not fit in memory.
        for parameter, gradient in zip(learner.parameters(), before, strict=True):
            parameter.grad = gradient if gradient is None else gradient.clone()
        if device_of(learner).type == "cuda":
            torch.cuda.empty_cache()
    if fitting.at_once < plan.at_once:
        warnings.warn(
            f"out of memory with {count(plan.at_once, 'task')} at a time; "
            f"{fitting.at_once} from now on, also when the run is resumed. Results are the same, "
            "up to rounding.",
            stacklevel=2,
        )
    return outcome, fitting


@contextmanager
def one_task_must_fit() -> Iterator[None]:
    """Raises :class:`TaskTooLarge` where memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _too_large(error) from error


def _halved(plan: Plan) -> Plan:
    if plan.mapping is Mapping.LOOP:
        return replace(plan, workers=plan.workers // 2)
    return replace(plan, chunk=plan.chunk // 2)


def _too_large(error: BaseException) -> TaskTooLarge:
    return TaskTooLarge(
        f"fit: one task alone does not fit in memory ({first_line(error)}). "
        "Use tasks with fewer queries or smaller images, a narrower backbone, or, for a learner "
        "with several inner steps, meta_gradient=Exact(recompute=True)."
    )


@cache
def keep_freed_memory() -> bool:
    """Make malloc keep freed memory, for the whole process from now on; True where it worked.

    Memory use stays at its peak, which is about a fifth higher. Does nothing without glibc, or if
    the environment already configures malloc (``MALLOC_...``, ``GLIBC_TUNABLES``, ``LD_PRELOAD``);
    so ``MALLOC_MMAP_MAX_=65536``, glibc's default, opts out.
    """
    chosen = ("GLIBC_TUNABLES", "LD_PRELOAD")
    if any(name.startswith("MALLOC_") or name in chosen for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (absent from other C libraries)
        settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
        return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no CDLL(None)
        return False
