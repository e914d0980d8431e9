"""Mixtures of experts under a gate: the mixture, and fitting a gate with a head to a new task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.answers.reals import Reals
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.multitask.perceptrons import layer
from quickstudy.learners.outputs import element_weights, label_vectors, present_entry
from quickstudy.learners.transfer.heads import ridge
from quickstudy.learners.transfer.linear_probe import fitted
from quickstudy.learners.transfer.logistic_optimum import through_softmax
from quickstudy.tasks.examples import without_absent


class Gate(NamedTuple):
    """The weight (d, experts) and the offset (experts,) of a gate: softmax(z weight + offset)."""

    weight: Tensor
    offset: Tensor

    def shares(self, z: Tensor) -> Tensor:
        """How much each expert counts for rows ``z`` (n, d): (n, experts), each row sums to 1."""
        return (z @ self.weight + self.offset).softmax(-1)

    @staticmethod
    def even(z: Tensor, experts: Tensor) -> Gate:
        """The gate under which all experts count the same."""
        return Gate(z.new_zeros(z.shape[-1], experts.shape[1]), z.new_zeros(experts.shape[1]))


class StackedGates(nn.Module):
    """Gates of many tasks: ``weight`` (tasks, d, experts) and ``offset`` (tasks, experts).

    They start at zero, so that all experts count the same.
    """

    def __init__(self, tasks: int, d: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tasks, d, experts))
        self.offset = nn.Parameter(torch.zeros(tasks, experts))

    def at(self, place: Tensor | int) -> Gate:
        """The gate of the task at ``place``."""
        return Gate(self.weight[place], self.offset[place])

    def all_shares(self, z: Tensor) -> Tensor:
        """The shares (n, tasks, experts) under all gates: ``z`` is (n, d), or (n, tasks, d)."""
        return layer(z, self.weight, self.offset).softmax(-1)

    def mean(self) -> Gate:
        """The mean of all gates."""
        return Gate(self.weight.mean(0), self.offset.mean(0))


def mixture(shares: Tensor, experts: Tensor) -> Tensor:
    """sum_k shares_k experts_k: (n, experts), (n, experts, h) -> (n, h)."""
    return torch.einsum("nk,nkh->nh", shares, experts)


@dataclass(frozen=True)
class GateFit:
    """The settings of :func:`fit_gated_head`; ``learner`` names them in errors.

    Raises ValueError for numbers out of range.
    """

    learner: str
    steps: int
    rate: float
    l2: float
    scale: float

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"{self.learner}: steps must be at least 0; found {self.steps}.")
        for name in ("rate", "l2", "scale"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{self.learner}: {name} must be a positive number; found {value}."
                )


def fit_gated_head(
    z: Tensor, experts: Tensor, support: Examples, spec: TaskSpec, start: Gate, fit: GateFit
) -> State:
    """The gate and the ridge head that fit ``support`` together.

        J(gate) = min_{W, b} (sum_io c_io (m_i W_o + b_o - y_io)² + l2 |W|²) / V
        m_i     = sum_k softmax(gate(z_i))_k experts_ik,    V = sum_io c_io (y_io - mean_o)²
        gate   <- gate - rate / (1 + mean_io |z_i|²) ∇J,     ``steps`` times

    with means over known elements of the targets. The head is optimal for every gate, so that ∇J is
    the derivative at this head alone. J is the share of the targets' variance that is left, and the
    rate is divided by the size of z, so that the rate has no unit.

    ``z``        (n, d): what the gate reads.
    ``experts``  (n, experts, h): their outputs.
    ``support``  rows whose unlabelled ones have weight 0.

    State: ``gate``, its ``weight`` (d, experts) and ``offset`` (experts,); ``weight`` (h, outputs)
    and ``offset`` (outputs,) of the head; ``present`` (ways,) for classes.
    """
    y = label_vectors(support, spec.answer, spec.outputs, z.dtype)
    counts = element_weights(support, spec.answer, z.dtype)
    unit = _variation(y, counts)
    rows = counts.sum(-1)  # not their weights: a known element counts once, in one row or two
    step = fit.rate / (1 + rows @ z.square().sum(-1) / rows.sum().clamp_min(_tiny(z)))
    gate = start
    for _ in range(fit.steps):
        shares = gate.shares(z)
        mixed = mixture(shares, experts)
        weight, offset = fitted(ridge, mixed, y, counts, spec.answer, fit.l2)
        error = 2 * counts * (mixed @ weight + offset - y) / unit
        along = torch.einsum("nh,nkh->nk", error @ weight.mT, experts)
        change = through_softmax(shares, along)
        gate = Gate(gate.weight - step * (z.mT @ change), gate.offset - step * change.sum(0))
    mixed = mixture(gate.shares(z), experts)
    weight, offset = fitted(ridge, mixed, y, counts, spec.answer, fit.l2)
    head = {"weight": weight.contiguous(), "offset": offset}
    return {"gate": gate._asdict(), **head, **present_entry(support, spec)}


def predict_gated(state: State, z: Tensor, experts: Tensor, spec: TaskSpec, scale: float) -> Tensor:
    """Predictions (n, outputs) under the state of :func:`fit_gated_head`.

    ``scale``  factor on those for classes and labels, whose ridge targets are too close together
               for a softmax.
    """
    mixed = mixture(Gate(**state["gate"]).shares(z), experts)
    predictions = mixed @ state["weight"] + state["offset"]
    if not isinstance(spec.answer, Reals):
        predictions = scale * predictions
    return without_absent(predictions, state.get("present"))


def _variation(y: Tensor, counts: Tensor) -> Tensor:
    """sum_io c_io (y_io - mean_o)², above its rounding error."""
    totals = counts.sum(0).clamp_min(_tiny(y))
    means = (counts * y).sum(0) / totals
    rounding = torch.finfo(y.dtype).eps * (counts * y.square()).sum()
    return (counts * (y - means).square()).sum() + rounding + _tiny(y)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
