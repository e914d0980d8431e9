"""The encoder and decoder of neural processes, which treat each output separately."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.outputs import element_weights, label_vectors


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """(..., inputs) -> (..., outputs) through two hidden layers."""
    layers = nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, outputs, bias=False),  # a bias shared by classes has no effect
    )  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.Linear):  # He et al. (2015): preserves the variance between rows
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers


def encode(
    encoder: nn.Module, features: Tensor, support: Examples, spec: TaskSpec
) -> tuple[Tensor, Tensor]:
    """Encoded rows (outputs, n, size), and how often each counts for each output (outputs, n)."""
    labels = label_vectors(support, spec.answer, spec.outputs, features.dtype).mT
    weights = element_weights(support, spec.answer, features.dtype).mT
    if isinstance(spec.answer, Classes):  # a row counts for its own class only
        labels, weights = torch.ones_like(labels), weights * labels
    return encoder(_concatenated(features, labels.unsqueeze(-1))), weights


def decode(
    decoder: nn.Module, features: Tensor, read: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    """Mean and deviation (n, outputs) from features (n, d) and reads (outputs, n, size)."""
    mean, spread = decoder(_concatenated(features, read)).unbind(-1)
    return mean.mT, floor + (1 - floor) * F.softplus(spread.mT)


def _concatenated(features: Tensor, others: Tensor) -> Tensor:
    """(n, d) and (outputs, n, e) -> (outputs, n, d + e)."""
    return torch.cat([features.expand(len(others), *features.shape), others], -1)
