"""The law of features that say little: constant, zero, tiny and huge ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.base.door import inspected
from quickstudy.base.errors import BrokenLaw
from quickstudy.base.trees import leaves, map_tree
from quickstudy.contract.compare import predicted
from quickstudy.core import Learner, Task
from quickstudy.tasks.stacks import map_task

SCALES = (1e-4, 1e-8, 1e-20, 1e6)
"""Factors on the inputs of a task."""

HUGE = "1e+06 times as large"


def plain_features_give_finite_answers(learner: Learner, task: Task) -> None:
    """Constant, zero, tiny and huge inputs give finite predictions, in float64 and float32.

    Huge ones in float32 for classification alone: the gradient of a squared error grows with them,
    so that descent at a fixed rate leaves the range of float32. A predictor refuses such results.
    """
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "constant": torch.ones_like,
        "zero": torch.zeros_like,
        **{f"{scale:g} times as large": _times(scale) for scale in SCALES},
    }
    answer = task.spec.answer
    for dtype in (torch.float64, torch.float32):
        model = learner if dtype == torch.float64 else copy.deepcopy(learner).float()
        converted = map_task(lambda x, d=dtype: x.to(d) if x.is_floating_point() else x, task)
        for kind, change in kinds.items():
            if kind == HUGE and dtype == torch.float32 and not isinstance(answer, Classes):
                continue
            changed = _with_inputs(converted, change)
            with inspected():  # so that a result that is not finite reaches the check below
                predictions = predicted(model, changed.support, changed)
            if not all(bool(leaf.isfinite().all()) for leaf in leaves(predictions)):
                raise BrokenLaw(
                    f"predictions must be finite whatever the inputs; found NaN or infinity for "
                    f"{kind} inputs in {dtype}. Keep denominators above rounding, and stop "
                    "iterations when their residual is rounding."
                )


def _times(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda inputs: scale * inputs


def _with_inputs(task: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """The task with its real inputs changed."""

    def changed(leaf: Tensor) -> Tensor:
        return change(leaf) if leaf.is_floating_point() else leaf

    support, query = (
        part._replace(inputs=map_tree(changed, part.inputs)) for part in (task.support, task.query)
    )
    return task._replace(support=support, query=query)
