"""The law of memory: inner steps that nobody differentiates need the memory of one."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quickstudy.base.errors import BrokenLaw
from quickstudy.base.trees import leaves
from quickstudy.core import Learner, Task
from quickstudy.learners.gradient.gradient_learner import GradientLearner

FEW, MANY = 4, 12
"""Numbers of inner steps that are compared."""


def memory_does_not_grow_with_steps(learner: Learner, task: Task) -> None:
    """Without gradients, ``adapt`` needs as much memory for many inner steps as for a few.

    For learners with an attribute ``steps``. Memory is the most that tensors made by ``adapt`` take
    at the same time.
    """
    few, many = (_with_steps(learner, steps) for steps in (FEW, MANY))
    if few is None or many is None:
        return
    least, most = (_peak(each, task) for each in (few, many))
    if most > 1.1 * least:
        raise BrokenLaw(
            f"adapt without gradients must not need more memory for more steps; found {least:,} "
            f"bytes for {FEW} steps and {most:,} for {MANY}. Keep only the last weights, as "
            "learners.gradient.descend.last does."
        )


def _with_steps(learner: Learner, steps: int) -> Learner | None:
    """A copy of ``learner`` that takes so many inner steps; None for one without inner steps."""
    learner = copy.deepcopy(learner)
    if isinstance(learner, GradientLearner):
        learner.inner = replace(learner.inner, steps=steps, test_steps=None)
        return learner
    if not isinstance(getattr(learner, "steps", None), int):
        return None
    learner.steps = steps  # type: ignore[assignment]
    return learner


def _peak(learner: Learner, task: Task) -> int:
    """Bytes of the tensors that ``adapt`` makes, at the moment when they are most."""
    with torch.no_grad(), _LiveBytes() as live:
        learner.adapt(task.support, task.spec)
    return int(live.most)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for output in leaves(outputs):
            if isinstance(output, Tensor):
                self._add(output.untyped_storage())
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self._alive:
            self.now += size
            self.most = max(self.most, self.now)
            self._alive[place] = weakref.finalize(storage, self._remove, place, size)

    def _remove(self, place: int, size: int) -> None:
        del self._alive[place]
        self.now -= size
