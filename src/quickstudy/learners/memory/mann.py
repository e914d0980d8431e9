"""MANN: an LSTM with an external memory reads the support set as a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.base.words import count
from quickstudy.core import State, TaskSpec
from quickstudy.learners.memory.centring import normalised_size
from quickstudy.learners.memory.external_memory import LRUMemory, empty_memory, read
from quickstudy.learners.memory.mann_rows import (
    MemoryState,
    RowInputs,
    Weights,
    all_rows,
    one_row,
)
from quickstudy.learners.memory.sequence_learner import SequenceLearner, of_task
from quickstudy.learners.recurrent import CellState, LSTMCell


class SequenceState(NamedTuple):
    """The state between two rows; leading dimensions (...) are those of the rows."""

    cell: CellState
    memory: LRUMemory
    reads: Tensor  # (..., heads * width): the vectors read last
    label: Tensor  # (..., outputs): of the previous row; zeros before the first
    tag: Tensor  # (..., tags): one-hot id of the previous row; without tags, ids are not recorded


class MANN(SequenceLearner):
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

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs), each query as the row after the support."""
        return of_task(self._predict_queries(state, inputs)[0], state, spec)

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
        """The states before and after each row, and predictions: see :class:`SequenceLearner`."""
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
