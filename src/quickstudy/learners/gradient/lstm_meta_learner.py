"""The LSTM meta-learner: a learnt update rule with an input gate and a forget gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.network import SupportLoss, check_backbone
from quickstudy.learners.preprocessing import preprocess


class LSTMMetaLearner(GradientLearner):
    """Maps a support set to the backbone after steps of a learnt update rule.

        θ_t = f_t ∘ θ_{t-1} - i_t ∘ ∇_t                                    (equation 2)
        i_t = σ(W_I [h_t, θ_{t-1}, i_{t-1}] + b_I)                         (section 3.1)
        f_t = σ(W_F [h_t, θ_{t-1}, f_{t-1}] + b_F)
        h_t = LSTM(preprocess(∇_t), preprocess(L_t))     L_t = L_support(θ_{t-1}), ∇_t = ∇L_t

    It is the cell update of an LSTM whose cell state is the network's weights: the candidate is
    -∇_t, the input gate a learning rate, the forget gate a decay. One shared rule is applied to
    each weight separately. θ_0, the backbone's own weights, is learnt together with the rule. The
    rule's input gradients and losses are constants, so there are no second derivatives.

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(32, outputs=5)``;
                  memory is proportional to its weights * 4 * ``hidden`` * ``steps``.
    ``steps``     T; the paper's code takes 12 at 1 shot and 8 at 5 shots.
    ``hidden``    size of the first LSTM layer; 20 in the paper's code.
    ``test_steps``  steps in evaluation mode; None for as many as in training, as in the paper.

    State: as :class:`quickstudy.MAML`'s.

    Raises ValueError for numbers below 1, for a backbone built without outputs, and for
    norm="running", whose population statistics are not those of adapted weights.

    Reference: Ravi and Larochelle (2017), Optimization as a Model for Few-Shot Learning.
    Differs from the paper in steps that use the whole support set, where the paper's may use
    batches of it, and in the norm, which is the backbone's choice.

    >>> import torch, quickstudy as qs
    >>> learner = qs.LSTMMetaLearner(qs.backbones.MLP(outputs=1))
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> support = qs.examples(x, x)
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 5,
        hidden: int = 20,
        test_steps: int | None = None,
    ) -> None:
        refuse_sizes("LSTMMetaLearner", hidden=hidden)
        inner = InnerLoop("LSTMMetaLearner", steps, test_steps=test_steps)
        check_backbone(backbone, "LSTMMetaLearner")
        super().__init__(backbone, inner)
        self.backbone, self.hidden = backbone, hidden
        self.rule = like(backbone, UpdateRule(hidden))

    def _path(self, loss: SupportLoss, weights: Weights) -> Iterator[Weights]:
        gradients_and_loss = torch.no_grad()(torch.func.grad_and_value(loss))  # constants
        memory = None
        yield weights
        for _ in range(self.steps_now):
            gradients, value = gradients_and_loss(weights)
            flat, memory = self.rule(_flat(weights), _flat(gradients), value, memory)
            weights = _shaped(flat, weights)
            yield weights


class Memory(NamedTuple):
    """The rule's state for each weight: its LSTM's output and cell (p, hidden); gates (p,)."""

    output: Tensor
    cell: Tensor
    input_gate: Tensor
    forget_gate: Tensor


class UpdateRule(nn.Module):
    """weights (p,), gradients (p,), loss () -> weights (p,): the same rule for each of the p.

    Initially it is descent at a rate of about 0.01 with a weight decay of about 1% per step.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.lstm = nn.Linear(4 + hidden, 4 * hidden)
        self.input_gate = nn.Linear(hidden + 2, 1)
        self.forget_gate = nn.Linear(hidden + 2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)
        # Initially the forget gate is near 1 and the input gate near 0, as in the paper.
        nn.init.uniform_(self.input_gate.bias, -5, -4)
        nn.init.uniform_(self.forget_gate.bias, 4, 6)

    def forward(
        self, weights: Tensor, gradients: Tensor, loss: Tensor, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        """The next weights; ``memory`` is None before the first step."""
        previous = self._zero_memory(weights) if memory is None else memory
        inputs = torch.cat([preprocess(gradients), preprocess(loss).expand(len(weights), 2)], -1)
        gates = self.lstm(torch.cat([inputs, previous.output], -1)).chunk(4, -1)
        forget_gate, input_gate, output_gate, candidate = gates
        cell = forget_gate.sigmoid() * previous.cell + input_gate.sigmoid() * candidate.tanh()
        output = output_gate.sigmoid() * cell.tanh()
        i = self._gate(self.input_gate, output, weights, previous.input_gate)
        f = self._gate(self.forget_gate, output, weights, previous.forget_gate)
        return f * weights - i * gradients, Memory(output, cell, i, f)

    def _gate(self, gate: nn.Linear, output: Tensor, weights: Tensor, previous: Tensor) -> Tensor:
        inputs = torch.cat([output, weights.unsqueeze(-1), previous.unsqueeze(-1)], -1)
        value: Tensor = gate(inputs).squeeze(-1).sigmoid()
        return value

    def _zero_memory(self, weights: Tensor) -> Memory:
        zero, gate = weights.new_zeros(len(weights), self.hidden), torch.zeros_like(weights)
        return Memory(zero, zero, gate, gate)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights.values()])


def _shaped(flat: Tensor, like: Weights) -> Weights:
    parts = zip(like.items(), flat.split([w.numel() for w in like.values()]), strict=True)
    return {name: part.reshape(weight.shape) for (name, weight), part in parts}
