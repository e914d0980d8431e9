"""The long short-term memory cell from primitives: torch's own does not vmap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class CellState(NamedTuple):
    """The state of a cell between steps: ``hidden`` and ``cell``, both (..., hidden)."""

    hidden: Tensor
    cell: Tensor


def gated(gates: Tensor, cell: Tensor) -> CellState:
    """The state after a step, from its gates (..., 4 hidden) before their activations.

    They come in the order of :class:`LSTMCell`: input, forget, output, candidate.
    """
    i, f, o, candidate = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * candidate.tanh()
    return CellState(o.sigmoid() * cell.tanh(), cell)


class LSTMCell(nn.Module):
    """One step of a long short-term memory: inputs (..., inputs), state -> the next state.

        i, f, o = sigmoid(W_i [x, h] + b_i), sigmoid(W_f [x, h] + b_f), sigmoid(W_o [x, h] + b_o)
        c       = f * c + i * tanh(W_c [x, h] + b_c)
        h       = o * tanh(c)

    The forget gate starts open (bias 1), so that the cell keeps its state early in training.

    Reference: Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000); its
    bias from Jozefowicz et al. (2015).
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)
        with torch.no_grad():
            self.gates.bias[hidden : 2 * hidden] = 1.0

    def forward(self, inputs: Tensor, state: CellState) -> CellState:
        """The state after ``inputs``."""
        return gated(self.gates(torch.cat([inputs, state.hidden], -1)), state.cell)

    def empty(self) -> CellState:
        """The state before the first step."""
        zeros = self.gates.bias.new_zeros(self.hidden)
        return CellState(zeros, zeros)
