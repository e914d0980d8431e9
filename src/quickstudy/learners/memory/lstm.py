"""LSTM: a recurrent network reads the support set as a sequence, and has no other memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.core import State, TaskSpec
from quickstudy.learners.memory.centring import normalised_size
from quickstudy.learners.memory.sequence_learner import SequenceLearner, of_task
from quickstudy.learners.recurrent import CellState, LSTMCell, gated


class LSTMState(NamedTuple):
    """The state between two rows; leading dimensions (...) are those of the rows."""

    cell: CellState
    label: Tensor  # (..., outputs): of the previous row; zeros before the first


class LSTM(SequenceLearner):
    """Maps a support set, read row by row, to a recurrent state that predicts the next row.

        h_t, c_t = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1})
        predict  = W h_t

    What it knows about the task is in h and c alone: it is :class:`MANN` without its external
    memory, and its baseline in Santoro et al. Labels are delayed by one row: with x_t it reads
    y_{t-1}, so that no prediction can copy its label. Each query is predicted as the row after the
    support, with its last label. Trained by :func:`.sequence_loss`.

    ``backbone``  inputs (n, ...) -> features (n, backbone.features), at least 4, because each row
                  is normalised.
    ``outputs``   most classes, or real targets, of any task.
    ``hidden``    size of the LSTM; 200 as in :class:`MANN`.

    State: ``sequence``, the :class:`LSTMState` after the support; ``centre`` (features,);
    ``present`` (outputs,) for classification; ``statistics`` for norm="support".

    Unknown labels and real targets are read as zeros.

    Raises ValueError for a backbone of fewer than 4 features, or that does not declare its
    ``features``, for a task of more outputs, and for targets that are not one vector a row.

    Reference: Hochreiter, Younger and Conwell (2001), Learning to Learn Using Gradient Descent; for
    few-shot classification as the baseline of Santoro et al. (2016), Meta-Learning with
    Memory-Augmented Neural Networks.
    Differs from the papers in f, which is the backbone, centred at the mean of the support as that
    of :class:`MANN` (flattened pixels in Santoro et al., real numbers in Hochreiter et al.), and in
    the forget gate, which the cell of 2001 has not.

    >>> import quickstudy as qs
    >>> learner = qs.LSTM(qs.backbones.MLP(in_features=2), outputs=2)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    def __init__(self, backbone: nn.Module, outputs: int = 5, hidden: int = 200) -> None:
        super().__init__()
        refuse_sizes("LSTM", outputs=outputs, hidden=hidden)
        features = normalised_size(backbone, "LSTM")
        self.outputs, self.hidden = outputs, hidden
        self.controller = LSTMCell(features + outputs, hidden)
        self.output_layer = nn.Linear(hidden, outputs)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs), each query as the row after the support."""
        cell, label = state["sequence"]  # plain tuples after loading
        sequence = LSTMState(CellState(*cell), label)
        return of_task(self.predict_next(sequence, self.embed(state, inputs))[0], state, spec)

    def start(self, tags: int = 0) -> LSTMState:
        """The state before the first row: zeros; ``tags`` are not recorded."""
        return LSTMState(self.controller.empty(), self.output_layer.bias.new_zeros(self.outputs))

    def predict_next(self, sequence: LSTMState, features: Tensor) -> tuple[Tensor, None]:
        """Predictions (n, outputs) for rows (n, features), each as the only next row."""
        n = features.shape[0]  # not len, which an exported graph would hold as a constant
        gates = self._gates(features, sequence.label.expand(n, -1))
        recurrent = F.linear(sequence.cell.hidden, self._recurrent_weights())
        after = gated(gates + recurrent, sequence.cell.cell)
        predictions: Tensor = self.output_layer(after.hidden)
        return predictions, None

    def read_rows(
        self, sequence: LSTMState, features: Tensor, labels: Tensor, tags: Tensor | None = None
    ) -> tuple[LSTMState, Tensor]:
        """The states before and after each row (n + 1, ...), and predictions (n, outputs).

        ``features`` (n, features); ``labels`` (n, outputs), each read one row later; ``tags`` are
        not recorded. Each prediction is made before the row's label is read.
        """
        labels = torch.cat([sequence.label.unsqueeze(0), labels])
        gates, weights = self._gates(features, labels[:-1]), self._recurrent_weights()
        path = [sequence.cell]
        for of_row in gates.unbind(0):
            path.append(gated(of_row + F.linear(path[-1].hidden, weights), path[-1].cell))
        hidden, cell = (torch.stack(each) for each in zip(*path, strict=True))
        predictions: Tensor = self.output_layer(hidden[1:])
        return LSTMState(CellState(hidden, cell), labels), predictions

    def _gates(self, features: Tensor, label: Tensor) -> Tensor:
        """What rows and labels before give to the gates, (n, 4 hidden): for all rows at once."""
        layer = self.controller.gates
        outside = layer.weight[:, : self.controller.inputs]
        return F.linear(torch.cat([features, label], -1), outside, layer.bias)

    def _recurrent_weights(self) -> Tensor:
        """(4 hidden, hidden): from the state before to the gates."""
        return self.controller.gates.weight[:, self.controller.inputs :]
