"""MANN: an LSTM with an external memory reads the support set as a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.base.weighting import counting
from quickstudy.base.words import count
from quickstudy.core import Examples, Learner, State, Task, TaskSpec, check_answer, checked_support
from quickstudy.learners.memory.centring import centre_of, centred, normalised_size
from quickstudy.learners.memory.external_memory import LRUMemory, empty_memory, read
from quickstudy.learners.memory.mann_rows import (
    MemoryState,
    RowInputs,
    Weights,
    all_rows,
    one_row,
)
from quickstudy.learners.outputs import label_vectors, present_entry, refuse_more_outputs
from quickstudy.learners.recurrent import CellState, LSTMCell
from quickstudy.objectives import Outcome, mean_loss, score_of
from quickstudy.tasks.examples import labelled, require_given, without_absent


class SequenceState(NamedTuple):
    """The state between two rows; leading dimensions (...) are those of the rows."""

    cell: CellState
    memory: LRUMemory
    reads: Tensor  # (..., heads * width): the vectors read last
    label: Tensor  # (..., outputs): of the previous row; zeros before the first
    tag: Tensor  # (..., tags): one-hot id of the previous row; without tags, ids are not recorded


def sequence_loss(learner: Learner, task: Task) -> Outcome:
    """A :class:`MANN`'s objective: the mean loss over all rows, read as one sequence.

    Support rows come first, then query rows; each is predicted before its label is read. Draw tasks
    in random order (``episodes(..., shuffled=True)``). The score is that of ``predict``: each query
    directly follows the support. In the sequence, later queries read earlier queries' labels.

    Raises TypeError for a learner other than :class:`MANN`, and ValueError for a task of more
    outputs.
    """
    if not isinstance(learner, MANN):
        raise TypeError(f"sequence_loss: needs a MANN learner; found {type(learner).__name__}.")
    answer, parts = task.spec.answer, (require_given(task.support), require_given(task.query))
    check_answer(learner, answer)
    checked_support(learner, parts[0], answer)
    refuse_more_outputs("MANN", task.spec, learner.outputs)
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
    order = _present_first(rows.weights)
    rows = map_tree(lambda leaf: leaf[order], rows)
    labels = label_vectors(rows, answer, learner.outputs, rows.inputs.dtype)
    path, predictions = learner.read_rows(learner.start(), rows.inputs, labels)
    predictions = _of_task(predictions, present, task.spec)
    loss = mean_loss(predictions, rows, answer, present.get("present"))
    with torch.no_grad():
        after_support = _after(path, support.weights)
        predictions_after, _ = learner.predict_next(after_support, later)
        query_predictions = _of_task(predictions_after, present, task.spec)
    return Outcome(loss, score_of(query_predictions, query, answer))


class MANN(Learner):
    """Maps a support set, read row by row, to a controller and a memory that predict the next row.

        h_t     = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1})
        key_t   = W_k [h_t, f(x_t)],  delayed_t = W_d [h_t, y_{t-1}],  gate_t = sigmoid(W_g h_t)
        M_t     = M_{t-1}, key_t written to least used slots, delayed_t to slots read last  (gate_t)
        r_t     = M_t read by content at key_t
        predict = W [h_t, r_t]                                    (section 3; see external_memory)

    Labels are delayed by one row: with x_t the controller reads y_{t-1}, so that no prediction can
    copy its label. Each query is predicted as the row after the support, with its last label.
    Trained by :func:`sequence_loss`.

    ``backbone``  inputs (n, ...) -> features (n, backbone.features), at least 4, because each row
                  is normalised.
    ``outputs``   most classes, or real targets, of any task.
    ``hidden``    size of the LSTM; 200 in the paper.
    ``slots``, ``width``, ``reads``  the memory's shape and its read heads; 128, 40 and 4 there.
    ``decay``     of usage per row, between 0.95 and 0.99 in other works; not given in the paper.
    ``writes_labels``  whether delayed_t, made from the label of the row before, is written to the
                  slots read last. False: key_t is written there too, as the paper's equation (7)
                  has it. Then only h_t carries the label into the memory, and with the paper's
                  sizes MANN had not learnt to bind labels to rows after 8,000 tasks.

    State: ``sequence``, the :class:`SequenceState` after the support; ``centre`` (features,);
    ``present`` (outputs,) for classification; ``statistics`` for norm="support". The memory has one
    more column per support row: how much of a slot's content that row wrote.

    Unknown labels and real targets are read as zeros.

    Raises ValueError for a backbone of fewer than 4 features, or that does not declare its
    ``features``, for a task of more outputs, and for targets that are not one vector a row.

    Reference: Santoro, Bartunov, Botvinick, Wierstra and Lillicrap (2016), Meta-Learning with
    Memory-Augmented Neural Networks.
    Differs from the paper in what is written, unless ``writes_labels`` is False: the key into the
    least used slot and a vector made from the delayed label into the slot read last (the paper
    writes the key into both). Its rule cannot be had exactly, as it does not say in which order
    slots are erased, written and read, nor which head writes where. Keys are
    also computed from f(x_t), not only from h_t. The key strength is learnt (1 in the paper). Each
    head has its own least used slot (in the paper all heads write into all of them). f is the
    backbone, centred at the mean of the support (the paper reads flattened pixels). Labels are
    one-hot (strings of letters in the paper's 15-way tasks).

    >>> import quickstudy as qs
    >>> learner = qs.MANN(qs.backbones.MLP(in_features=2), outputs=2, slots=8)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes, Reals, Labels)
    objective = staticmethod(sequence_loss)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "support_order_is_irrelevant": "the support set is read as a sequence",
        "weight_two_is_twice": "a row is one step of the sequence, or none where its weight is 0",
        "relabelling_permutes_outputs": "labels are inputs of learnt weights",
    }

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int = 5,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        reads: int = 4,
        decay: float = 0.95,
        writes_labels: bool = True,
    ) -> None:
        super().__init__()
        refuse_sizes("MANN", outputs=outputs, hidden=hidden, slots=slots, width=width, reads=reads)
        if reads > slots:
            raise ValueError(
                f"MANN: {count(reads, 'head')} need as many slots; found slots={slots}."
            )
        if not 0 <= decay < 1:
            raise ValueError(f"MANN: decay must lie in [0, 1); found {decay}.")
        features = normalised_size(backbone, "MANN")
        self.outputs, self.hidden = outputs, hidden
        self.slots, self.width, self.reads, self.decay = slots, width, reads, decay
        self.writes_labels = writes_labels
        self.controller = LSTMCell(features + outputs + reads * width, hidden)
        self.key = nn.Linear(hidden + features, reads * width)
        self.delayed = nn.Linear(hidden + outputs, reads * width) if writes_labels else None
        self.gate = nn.Linear(hidden, reads)
        # A cosine is at most 1: under a strength of 1 the best of 128 slots gets a share of 2%.
        self.strength = nn.Parameter(torch.full((reads,), 10.0))
        self.output_layer = nn.Linear(hidden + reads * width, outputs)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Controller and memory after reading the rows of ``support`` in order."""
        refuse_more_outputs("MANN", spec, self.outputs)
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        centre = centre_of(features, support.weights)
        order = _present_first(support.weights)
        tags = torch.eye(len(order), dtype=features.dtype, device=features.device)[order]
        labels = label_vectors(support, spec.answer, self.outputs, features.dtype)[order]
        start = self.start(len(order))
        path, _ = self.read_rows(start, centred(features, centre)[order], labels, tags)
        return {
            "sequence": _after(path, support.weights),
            "centre": centre,
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs), each query as the row after the support."""
        return _of_task(self._predict_queries(state, inputs)[0], state, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The centred features (n, features) that the controller reads."""
        return centred(embed_query(self.backbone, inputs, state["statistics"]), state["centre"])

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares (n, support rows) of the content read that each row wrote, mean over heads.

        A row's key is written at its own step, its label at the next one.
        """
        share = self._predict_queries(state, inputs)[1].mean(-2)
        return share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)

    def _predict_queries(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        cell, memory, *others = state["sequence"]  # plain tuples after loading
        sequence = SequenceState(CellState(*cell), LRUMemory(*memory), *others)
        return self.predict_next(sequence, self.embed(state, inputs))

    def start(self, tags: int = 0) -> SequenceState:
        """The state before the first row: empty memory, zero reads.

        ``tags``  number of further columns of the memory, which record the row that wrote.
        """
        own = self.gate.bias
        return SequenceState(
            self.controller.empty(),
            empty_memory(self.slots, self.width + tags, self.reads, own),
            own.new_zeros(self.reads * self.width),
            own.new_zeros(self.outputs),
            own.new_zeros(tags),
        )

    def predict_next(self, sequence: SequenceState, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (n, outputs) for rows (n, features), each as the only next row.

        Also the tags (n, heads, tags) of the content that the heads read.
        """
        n = features.shape[0]  # not len, which an exported graph would hold as a constant
        label, tag = sequence.label.expand(n, -1), sequence.tag.expand(n, -1)
        row_inputs = self._row_inputs(features, label, torch.zeros_like(tag), tag)
        after = one_row(row_inputs, _memory_state(sequence), self._weights(), self.decay)
        tags = read(after.memory[..., self.width :], after.read_addresses)
        return self._predictions(after.recurrent), tags

    def read_rows(
        self, sequence: SequenceState, features: Tensor, labels: Tensor, tags: Tensor | None = None
    ) -> tuple[SequenceState, Tensor]:
        """One step for each row of ``features`` (n, features).

        ``labels`` (n, outputs) are read one step later than their rows. ``tags`` (n, tags) are
        zeros by default. Rows of weight 0 must come last, so that they do not affect the others.

        Returns the states before the first row and after each row, (n + 1, ...), and the
        predictions (n, outputs), each made before the row's label is read.
        """
        if tags is None:
            tags = sequence.tag.new_zeros(len(features), len(sequence.tag))
        labels, tags = (
            torch.cat([before.unsqueeze(0), own])
            for before, own in ((sequence.label, labels), (sequence.tag, tags))
        )
        row_inputs = self._row_inputs(features, labels[:-1], tags[1:], tags[:-1])
        states = all_rows(row_inputs, _memory_state(sequence), self._weights(), self.decay)
        return self._sequence(states, labels, tags), self._predictions(states.recurrent[1:])

    def _row_inputs(
        self, features: Tensor, label: Tensor, tag: Tensor, tag_before: Tensor
    ) -> RowInputs:
        """The inputs of rows that do not depend on earlier rows, except for the previous label."""
        cell, outside = self.controller.gates, features.shape[-1] + self.outputs
        gates = F.linear(torch.cat([features, label], -1), cell.weight[:, :outside], cell.bias)
        keys = F.linear(features, self.key.weight[:, self.hidden :], self.key.bias)
        delayed = [] if self.delayed is None else [
            F.linear(label, self.delayed.weight[:, self.hidden :], self.delayed.bias)
        ]  # fmt: skip
        gate = self.gate.bias.expand(*features.shape[:-1], -1)
        second = tag_before if delayed else tag  # whose content is written to slots read last
        return RowInputs(gates, torch.cat([keys, *delayed, gate], -1), tag, second)

    def _weights(self) -> Weights:
        """The weights that apply to the previous reads and to the controller's state."""
        outside = self.controller.inputs - self.reads * self.width
        layers = (
            (self.key, self.gate) if self.delayed is None else (self.key, self.delayed, self.gate)
        )
        of_state = [layer.weight[:, : self.hidden] for layer in layers]
        return Weights(
            self.controller.gates.weight[:, outside:], torch.cat(of_state), self.strength
        )

    def _predictions(self, recurrent: Tensor) -> Tensor:
        reads, hidden = recurrent.split([self.reads * self.width, self.hidden], -1)
        predictions: Tensor = self.output_layer(torch.cat([hidden, reads], -1))
        return predictions

    def _sequence(self, state: MemoryState, label: Tensor, tag: Tensor) -> SequenceState:
        reads, hidden = state.recurrent.split([self.reads * self.width, self.hidden], -1)
        memory = LRUMemory(state.memory, state.usage, state.read_addresses)
        return SequenceState(CellState(hidden, state.cell), memory, reads, label, tag)


def _memory_state(sequence: SequenceState) -> MemoryState:
    recurrent = torch.cat([sequence.reads, sequence.cell.hidden], -1)
    return MemoryState(recurrent, sequence.cell.cell, *sequence.memory)


def _present_first(weights: Tensor) -> Tensor:
    """The order (rows,) in which rows of weight 0 come last."""
    return (weights > 0).to(torch.uint8).argsort(descending=True, stable=True)


def _after(path: SequenceState, weights: Tensor) -> SequenceState:
    """The state of ``path`` after the rows whose ``weights`` are above 0, which come first."""
    n = (weights > 0).sum().reshape(1)
    state: SequenceState = map_tree(lambda leaf: leaf.index_select(0, n).squeeze(0), path)
    return state


def _of_task(predictions: Tensor, state: State, spec: TaskSpec) -> Tensor:
    """Predictions for the task's outputs; absent classes get probability 0."""
    return without_absent(predictions[:, : spec.outputs], state.get("present"))
