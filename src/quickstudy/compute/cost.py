"""The cost of one task's forward pass (memory, operators, FLOPs), counted instead of timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from quickstudy.base.errors import out_of_memory
from quickstudy.compute.engine import computing
from quickstudy.compute.gradients import outcome_over_tasks
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective
from quickstudy.tasks.inspection import Inspection
from quickstudy.tasks.stacks import first_tasks, unstack

_SECONDS_PER_OPERATOR = 10e-6
_FLOPS_PER_SECOND = 40e9
"""Rough speed of one CPU thread. Constants, since plans from timings would vary between runs."""


@dataclass
class Cost:
    """The cost of one task.

    ``bytes``      the size of all operators' results, an upper bound on the task's graph.
    ``operators``  number of operator calls, without views.
    ``flops``      of convolutions and matrix products; a multiply-add counts as two.
                   Layers that torch runs as one operator (recurrent layers, a transformer's encoder
                   layer in evaluation mode) count as one operator without FLOPs.
    ``counted``    False where counting failed, so that the cost is unknown.
    """

    bytes: int = 0
    operators: int = 0
    flops: int = 0
    counted: bool = True

    @property
    def is_arithmetic(self) -> bool:
        """Whether arithmetic dominates the time on a CPU, not operator calls; True if unknown."""
        return not self.counted or self.seconds(1) > 2 * self.seconds(0)

    def seconds(self, tasks: int, calls: int = 1) -> float:
        """Rough time on a CPU for ``tasks`` at once, each operator counted ``calls`` times."""
        arithmetic = tasks * self.flops / _FLOPS_PER_SECOND
        return calls * self.operators * _SECONDS_PER_OPERATOR + arithmetic

    def __str__(self) -> str:
        if not self.counted:
            return "the cost of a task cannot be counted"
        return f"a task is {self.operators:,} operators and {self.flops / 1e9:.2g} GFLOP"


def cost_of_one_task(
    learner: Learner,
    stack: Task,
    objective: Callable[[Learner, Task], object],
    inspection: Inspection | None = None,
) -> Cost:
    """The cost of the first task of ``stack``, inner steps of ``adapt`` included.

    Raises what :func:`quickstudy.compute.engine.computing` raises, and out-of-memory errors.
    """
    with computing(learner, stack, inspection):
        return _cost(lambda: objective(learner, unstack(stack)[0])) or Cost(counted=False)


def cost_over_tasks(
    learner: Learner, stack: Task, objective: Objective, inspection: Inspection | None = None
) -> Cost | None:
    """The cost of the first task of ``stack`` with the learner's ``over_tasks``.

    More tasks need no more operators. None where learner or objective do not support it.
    Raises as :func:`cost_of_one_task` does.
    """
    one = first_tasks(stack, 1)
    with computing(learner, stack, inspection):
        return _cost(lambda: outcome_over_tasks(learner, one, objective))


def _cost(compute: Callable[[], object]) -> Cost | None:
    """The cost of ``compute``; None where it raises an error other than out of memory."""
    counting = _Counting()
    try:
        # Do not compile while operators are counted: the code would stay compiled for counting.
        with torch.compiler.set_stance("force_eager"), counting:
            compute()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    return counting.cost


class _Counting(TorchDispatchMode):
    """Adds up the costs of operators as they run."""

    supports_higher_order_operators = True  # e.g. torch.cond, which is no OpOverload

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            outputs = result if isinstance(result, (list, tuple)) else [result]
            self.cost.bytes += sum(t.nbytes for t in outputs if _is_dense(t))
            self.cost.operators += 1
            formula = flop_registry.get(getattr(func, "_overloadpacket", None))
            if formula is not None:
                self.cost.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _is_dense(value: object) -> bool:
    """Whether it is a tensor with ``nbytes``: dense, not sparse."""
    return isinstance(value, Tensor) and value.layout is torch.strided
