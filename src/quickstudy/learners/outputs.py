"""Labels as inputs, and which outputs a task has: for learners whose heads have a fixed size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Examples, TaskSpec
from quickstudy.tasks.examples import class_weights, one_hot


def refuse_more_outputs(who: str, spec: TaskSpec, outputs: int) -> None:
    """ValueError, in the name of the learner ``who``, for a task of more than its ``outputs``."""
    if spec.outputs > outputs:
        raise ValueError(
            f"{who}: the task asks {spec.outputs} outputs, but the learner has {outputs}. "
            f"Build it with outputs={spec.outputs}."
        )


def label_vectors(support: Examples, outputs: int, dtype: torch.dtype) -> Tensor:
    """Targets as vectors (n, outputs): one-hot class ids, or reals and zeros after them."""
    if not support.targets.is_floating_point():
        return one_hot(support.targets, outputs, dtype)
    targets = support.targets.to(dtype)
    return F.pad(targets, (0, outputs - targets.shape[-1]))


def present_outputs(support: Examples, spec: TaskSpec) -> Tensor:
    """(outputs,): which outputs the labelled support tells of; all of them in regression."""
    if support.targets.is_floating_point():
        return support.weights.new_ones(spec.outputs, dtype=torch.bool)
    return class_weights(support, spec.outputs) > 0
