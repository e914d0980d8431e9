"""What the forward pass of one task costs: memory, operators, arithmetic; counted, never timed."""

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
"""Of one thread, roughly. Constants, because a plan that was timed would change from run to run."""


@dataclass
class Cost:
    """Of one task.

    ``bytes``      of every operator's result: an upper bound on what the task's graph holds.
    ``operators``  calls that compute something, which views do not.
    ``flops``      of convolutions and matrix products, counting an addition and a product as two.
                   Layers that torch runs as one operator (a recurrent one, an encoder layer of a
                   transformer in evaluation) count as one, without the arithmetic inside.
    ``counted``    False where the counting itself failed, and nothing is known.
    """

    bytes: int = 0
    operators: int = 0
    flops: int = 0
    counted: bool = True

    @property
    def is_arithmetic(self) -> bool:
        """Whether a CPU's time goes into arithmetic, not calls of operators; where unknown, yes."""
        return not self.counted or self.seconds(1) > 2 * self.seconds(0)

    def seconds(self, tasks: int, calls: int = 1) -> float:
        """What a CPU takes for ``tasks`` at once, roughly, where each operator is so many calls."""
        arithmetic = tasks * self.flops / _FLOPS_PER_SECOND
        return calls * self.operators * _SECONDS_PER_OPERATOR + arithmetic

    def __str__(self) -> str:
        if not self.counted:
            return "what a task costs cannot be counted"
        return f"a task is {self.operators:,} operators and {self.flops / 1e9:.2g} GFLOP"


def cost_of_one_task(
    learner: Learner,
    stack: Task,
    objective: Callable[[Learner, Task], object],
    inspection: Inspection | None = None,
) -> Cost:
    """The cost of the first task of ``stack`` as it is computed, steps inside ``adapt`` included.

    Raises what :func:`quickstudy.compute.engine.computing` refuses, and where memory runs out.
    """
    with computing(learner, stack, inspection):
        return _cost(lambda: objective(learner, unstack(stack)[0])) or Cost(counted=False)


def cost_over_tasks(
    learner: Learner, stack: Task, objective: Objective, inspection: Inspection | None = None
) -> Cost | None:
    """The cost of the first task of ``stack`` by a learner's own ``over_tasks``.

    More tasks at once share its operators. None for a learner or an objective without such a way.
    Raises as :func:`cost_of_one_task` does.
    """
    one = first_tasks(stack, 1)
    with computing(learner, stack, inspection):
        return _cost(lambda: outcome_over_tasks(learner, one, objective))


def _cost(compute: Callable[[], object]) -> Cost | None:
    """What ``compute`` costs; None where it cannot run so."""
    counting = _Counting()
    try:
        # Nothing is compiled while operators are counted: it would stay as it was then.
        with torch.compiler.set_stance("force_eager"), counting:
            compute()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    return counting.cost


class _Counting(TorchDispatchMode):
    """Adds up what operators cost as they run."""

    supports_higher_order_operators = True  # such as torch.cond, of which there is no OpOverload

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
    """Whether a tensor says how many bytes it has."""
    return isinstance(value, Tensor) and value.layout is torch.strided
