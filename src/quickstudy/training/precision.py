"""Mixed precision: products and convolutions of a step's forward passes in bfloat16.

Parameters, optimiser, losses, gradients and inner updates keep the learner's own type, and so does
all else that torch's autocast does not list. bfloat16 has the range of float32, so nothing
overflows; float16 has not, and would ask for losses that are scaled.

The forward pass alone is inside autocast: a backward pass gives each operator the type that it had
on the way there. In particular solvers keep theirs, of which autocast knows the call but not the
products of its derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from quickstudy.base.modules import device_of
from quickstudy.compute.gradients import as_outcome
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome

Result = TypeVar("Result")
Precision = Literal["float32", "bfloat16"]
"""Of products and convolutions: the learner's own type, whichever that is, or bfloat16."""


def refuse_precision(precision: str) -> None:
    """ValueError for what is no :data:`Precision`."""
    if precision in get_args(Precision):
        return
    why = ""
    if precision == "float16":
        why = "float16 would need losses to be scaled, which training does not do; "
    raise ValueError(
        f"precision: must be 'float32' or 'bfloat16'; found {precision!r}. {why}"
        "bfloat16 has the range of float32. Use it, or leave precision out."
    )


def in_precision(objective: Objective, precision: Precision) -> Objective:
    """``objective``, computed in ``precision``."""
    return InBfloat16(objective) if precision == "bfloat16" else objective


@dataclass(frozen=True)
class InBfloat16:
    """An objective whose forward pass is in mixed precision: in whichever thread or process it
    runs, and whatever maps, differentiates or traces it."""

    objective: Objective

    def __call__(self, learner: Learner, task: Task) -> Outcome:
        """What ``objective`` gives, in the learner's own type."""
        dtype = _dtype(learner)
        outcome = as_outcome(self.within(self.objective, learner, task))
        return Outcome(outcome.loss.to(dtype), outcome.score.to(dtype))

    def within(
        self, compute: Callable[[Learner, Task], Result], learner: Learner, task: Task
    ) -> Result:
        """``compute(learner, task)`` in mixed precision, with losses in the learner's own type."""
        spec = replace(task.spec, loss=_InFull(task.spec.loss, _dtype(learner)))
        with products_in_bfloat16(learner):
            return compute(learner, task._replace(spec=spec))


def products_in_bfloat16(learner: Learner) -> torch.autocast:
    """Inside, products and convolutions where ``learner`` is take bfloat16."""
    # Nothing is kept of what was cast: an objective may move the weights and compute again.
    return torch.autocast(device_of(learner).type, torch.bfloat16, cache_enabled=False)


@dataclass(frozen=True)
class _InFull:
    """A loss of predictions in full, of which a softmax in bfloat16 would leave three digits."""

    loss: Callable[[Tensor, Tensor], Tensor]
    dtype: torch.dtype

    def __call__(self, predictions: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(predictions.device.type, enabled=False):
            return self.loss(predictions.to(self.dtype), targets)


def _dtype(learner: Learner) -> torch.dtype:
    return next((p.dtype for p in learner.parameters()), torch.get_default_dtype())
