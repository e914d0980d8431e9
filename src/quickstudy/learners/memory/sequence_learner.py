"""Learners that read a support set row by row: a label enters one row after its inputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.base.weighting import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec, check_answer, checked_support
from quickstudy.learners.memory.centring import centre_of, centred
from quickstudy.learners.outputs import label_vectors, present_entry, refuse_more_outputs
from quickstudy.objectives import Outcome, mean_loss, score_of
from quickstudy.tasks.examples import labelled, require_given, without_absent


def sequence_loss(learner: Learner, task: Task) -> Outcome:
    """A :class:`SequenceLearner`'s objective: the mean loss over all rows, read as one sequence.

    Support rows come first, then query rows; each is predicted before its label is read. Draw tasks
    in random order (``episodes(..., shuffled=True)``). The score is that of ``predict``: each query
    directly follows the support. In the sequence, later queries read earlier queries' labels.

    Raises TypeError for a learner that reads no sequence, and ValueError for a task of more
    outputs.
    """
    if not isinstance(learner, SequenceLearner):
        raise TypeError(
            "sequence_loss: needs a learner that reads a sequence (MANN, LSTM); found "
            f"{type(learner).__name__}."
        )
    answer, parts = task.spec.answer, (require_given(task.support), require_given(task.query))
    check_answer(learner, answer)
    checked_support(learner, parts[0], answer)
    refuse_more_outputs(type(learner).__name__, task.spec, learner.outputs)
    support, query = (labelled(part, answer) for part in parts)
    # Two passes, so that norm="support" normalises queries as `predict` does.
    first, statistics = embed_support(learner.backbone, support)
    with counting(query.weights):
        later = embed_query(learner.backbone, query.inputs, statistics)
    centre, present = centre_of(first, support.weights), present_entry(support, task.spec)
    later = centred(later, centre)
    rows = concatenate(*(
        part._replace(inputs=features)
        for part, features in ((support, centred(first, centre)), (query, later))
    ))  # fmt: skip
    order = present_first(rows.weights)
    rows = map_tree(lambda leaf: leaf[order], rows)
    labels = label_vectors(rows, answer, learner.outputs, rows.inputs.dtype)
    path, predictions = learner.read_rows(learner.start(), rows.inputs, labels)
    predictions = of_task(predictions, present, task.spec)
    loss = mean_loss(predictions, rows, answer, present.get("present"))
    with torch.no_grad():
        after_support = after(path, support.weights)
        predictions_after = learner.predict_next(after_support, later)[0]
        query_predictions = of_task(predictions_after, present, task.spec)
    return Outcome(loss, score_of(query_predictions, query, answer))


class SequenceLearner(Learner):
    """Maps a support set, read row by row, to a state from which the next row is predicted.

    Subclasses have a ``backbone`` and ``outputs``, and say how rows change the state. With x_t they
    read y_{t-1}, so that no prediction can copy its label. Each query is predicted as the row after
    the support, with its last label.
    """

    backbone: nn.Module
    outputs: int
    answers = (Classes, Reals, Labels)
    objective = staticmethod(sequence_loss)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "support_order_is_irrelevant": "the support set is read as a sequence",
        "weight_two_is_twice": "a row is one step of the sequence, or none where its weight is 0",
        "relabelling_permutes_outputs": "labels are inputs of learnt weights",
    }

    @abstractmethod
    def start(self, tags: int = 0) -> Any:
        """The state before the first row.

        ``tags``  how many numbers name a row, for learners that record which rows they remember.
        """

    @abstractmethod
    def read_rows(
        self, sequence: Any, features: Tensor, labels: Tensor, tags: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """One step for each row of ``features`` (n, features).

        ``labels`` (n, outputs) are read one step later than their rows. ``tags`` (n, tags) are
        zeros by default. Rows of weight 0 must come last, so that they do not affect the others.

        Returns the states before the first row and after each row, (n + 1, ...), and the
        predictions (n, outputs), each made before the row's label is read.
        """

    @abstractmethod
    def predict_next(self, sequence: Any, features: Tensor) -> tuple[Tensor, Any]:
        """Predictions (n, outputs) for rows (n, features), each as the only next row.

        Second, what the learner records of the rows it remembers, or None.
        """

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state after reading the rows of ``support`` in order."""
        refuse_more_outputs(type(self).__name__, spec, self.outputs)
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        centre = centre_of(features, support.weights)
        order = present_first(support.weights)
        tags = torch.eye(len(order), dtype=features.dtype, device=features.device)[order]
        labels = label_vectors(support, spec.answer, self.outputs, features.dtype)[order]
        start = self.start(len(order))
        path, _ = self.read_rows(start, centred(features, centre)[order], labels, tags)
        return {
            "sequence": after(path, support.weights),
            "centre": centre,
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The centred features (n, features) that are read."""
        return centred(embed_query(self.backbone, inputs, state["statistics"]), state["centre"])


def present_first(weights: Tensor) -> Tensor:
    """The order (rows,) in which rows of weight 0 come last."""
    return (weights > 0).to(torch.uint8).argsort(descending=True, stable=True)


def after(path: Any, weights: Tensor) -> Any:
    """The state of ``path`` after the rows whose ``weights`` are above 0, which come first."""
    n = (weights > 0).sum().reshape(1)
    return map_tree(lambda leaf: leaf.index_select(0, n).squeeze(0), path)


def of_task(predictions: Tensor, state: State, spec: TaskSpec) -> Tensor:
    """Predictions for the task's outputs; absent classes get probability 0."""
    return without_absent(predictions[:, : spec.outputs], state.get("present"))
