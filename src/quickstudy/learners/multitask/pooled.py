"""Pooled learning: one network for the rows of all tasks, a baseline of multi-task learning."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import (
    feature_size,
    like,
    refuse_heads_and_maps,
    refuse_sizes,
)
from quickstudy.backbones.norms import embed_query
from quickstudy.base.words import count
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.multitask.base_learner import refuse_support_statistics
from quickstudy.objectives import all_rows_loss


class Pooled(Learner):
    """Maps every task to the same network and head, as if the rows of all were of one task.

        predictions = f(x) W + b

    It reads neither the name of a task nor its support set, so all tasks must mean the same by
    their outputs. In training every row of a task counts, support and query.

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``outputs``   the number of outputs (classes, reals, labels) that every task has; default 1.

    State: empty.

    Raises ValueError for fewer than one output, for a backbone with a head or with maps, for one
    that normalises by the support set, and for a task of another number of outputs.

    Reference: none; the baseline in which all tasks share everything.

    >>> import quickstudy as qs
    >>> learner = qs.Pooled(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression(name="any"))(support.inputs).shape
    torch.Size([2, 1])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    exceptions = {  # noqa: RUF012  (never changed)
        "relabelling_permutes_outputs": "it reads no support row, so it cannot see new names",
        "joined_answer_changes_nothing": "it reads no support row, so no class can be absent",
    }
    objective = staticmethod(all_rows_loss)

    def __init__(self, backbone: nn.Module, outputs: int = 1) -> None:
        super().__init__()
        refuse_sizes("Pooled", outputs=outputs)
        refuse_heads_and_maps(backbone, "Pooled")
        refuse_support_statistics(backbone, "Pooled")
        self.backbone, self.outputs = backbone, outputs
        self.head = like(backbone, nn.Linear(feature_size(backbone, "Pooled"), outputs))

    def name_key(self, spec: TaskSpec) -> Hashable:
        """Tasks of all names may share a stack; ValueError for one of another width."""
        self._check(spec)
        return ""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Nothing."""
        self._check(spec)
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or real numbers (n, outputs)."""
        predictions: Tensor = self.head(embed_query(self.backbone, inputs, []))
        return predictions

    def _check(self, spec: TaskSpec) -> None:
        if spec.outputs != self.outputs:
            of = f"the task {spec.name!r}" if spec.name else "a task"
            raise ValueError(
                f"Pooled: one head serves all tasks, so each must have "
                f"{count(self.outputs, 'output')}; found {spec.outputs} of {of} ({spec.answer}). "
                "Use qs.HardSharing, whose heads may differ in width."
            )
