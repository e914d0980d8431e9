"""How learners read targets: as vectors, with a weight for each element."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.base.words import count
from quickstudy.core import Answer, Examples, TaskSpec


def refuse_more_outputs(who: str, spec: TaskSpec, outputs: int, argument: str = "outputs") -> None:
    """Raise ValueError, prefixed by ``who``, for a task with more outputs than ``outputs``.

    ``argument``  the name of the learner's argument that says how many it has.
    """
    if spec.outputs > outputs:
        raise ValueError(
            f"{who}: the task has {count(spec.outputs, 'output')}, but the learner has {outputs}. "
            f"Build it with {argument}={spec.outputs}."
        )


def label_vectors(rows: Examples, answer: Answer, outputs: int, dtype: torch.dtype) -> Tensor:
    """Targets as vectors (n, outputs), as the answer encodes them, padded with zeros.

    Unknown elements are zeros. Raises ValueError for targets that are not one vector a row, such as
    depth maps.
    """
    encoded = answer.encode(rows.targets, dtype)
    if encoded.ndim != 2:
        raise ValueError(
            f"support: this learner reads a vector of targets for each row, (n, {answer.outputs}); "
            f"found shape {tuple(rows.targets.shape)}. Use a learner whose backbone "
            "predicts at every position of a row, such as MAML."
        )
    return F.pad(encoded, (0, outputs - encoded.shape[-1]))


def element_weights(rows: Examples, answer: Answer, dtype: torch.dtype) -> Tensor:
    """How often each element of the targets counts, (n, outputs): w_i where known, else 0."""
    known = answer.known(rows.targets)
    known = known if known.ndim > 1 else known.unsqueeze(-1).expand(-1, answer.outputs)
    return rows.weights.to(dtype).unsqueeze(-1) * known


def present_entry(support: Examples, spec: TaskSpec) -> dict[str, Tensor]:
    """The entry ``present`` (outputs,) of a state; empty where all outputs are always present."""
    present = spec.answer.present(support.targets, support.weights)
    return {} if present is None else {"present": present}
