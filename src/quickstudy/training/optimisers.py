"""Optimisers of the outer loop, as functions of the learner's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

OptimiserMaker = Callable[[Iterable[Tensor]], Optimizer]
"""A function: parameters -> optimiser."""


def adam(rate: float = 1e-3) -> OptimiserMaker:
    """The default optimiser: Adam at ``rate``."""
    return lambda parameters: Adam(parameters, lr=rate)


def sgd(rate: float) -> OptimiserMaker:
    """Plain gradient descent at ``rate``."""
    return lambda parameters: SGD(parameters, lr=rate)
