"""Gradient descent as a function: weights -> weights, differentiable in where it started."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def descend(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    steps: int,
    rate: float,
    first_order: bool = False,
) -> Weights:
    """``steps`` times: weights - rate * grad loss(weights).

    With ``first_order`` the gradients count as constants, so that the derivative of the result
    with respect to where it started is the identity.
    """
    for _ in range(steps):
        gradients = torch.func.grad(loss)(weights)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        weights = {name: w - rate * gradients[name] for name, w in weights.items()}
    return weights
