"""Optimisers of the outer loop, as functions of the learner's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, Optimizer

OptimiserMaker = Callable[[Iterable[Tensor]], Optimizer]
"""A function: parameters -> optimiser."""


def adam(rate: float = 1e-3) -> OptimiserMaker:
    """The default optimiser: Adam at ``rate``."""
    return lambda parameters: Adam(parameters, lr=rate)


def sgd(rate: float) -> OptimiserMaker:
    """Plain gradient descent at ``rate``."""
    return lambda parameters: SGD(parameters, lr=rate)


def make_optimiser(maker: OptimiserMaker, parameters: Iterable[Tensor]) -> Optimizer:
    """``maker(parameters)``.

    Raises ValueError for an optimiser in place of a function that makes one, for a function that
    makes something else, and for LBFGS, which evaluates the loss several times in a step.
    """
    if not callable(maker) or isinstance(maker, Optimizer):
        raise ValueError(
            f"fit: optimiser must be a function of the parameters; found "
            f"{type(maker).__name__}. Write optimiser=lambda parameters: "
            "torch.optim.AdamW(parameters, lr=1e-3), or qs.optimisers.adam(1e-3)."
        )
    try:
        made = maker(parameters)
    except TypeError as error:
        raise ValueError(
            f"fit: optimiser must be a function of the parameters alone; found one that raises "
            f"{error}. Write optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        ) from error
    if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
        raise ValueError(
            f"fit: optimiser must give a torch.optim.Optimizer that steps along one gradient; "
            f"found {type(made).__name__}. Use qs.optimisers.adam() or sgd(rate)."
        )
    return made
