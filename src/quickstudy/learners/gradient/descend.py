"""Gradient descent as a function: weights -> weights, differentiable in where it started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.modules import in_torch_func

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]
Gradients = Callable[[Weights], Weights]
"""The gradient of a loss, as a function of the weights."""

Rate = float | Weights
"""A learning rate for all, or one (a scalar, or one per entry) for each of the weights."""

Rates = Rate | Sequence[Weights]
"""The rate of every step, or one for each: steps beyond the last take the last."""

Update = Callable[[Weights, Weights, Rate, Any], tuple[Weights, Any]]
"""(weights, gradients, rate, memory) -> weights and memory; memory is None before the first step.

A user's own may be any such function of differentiable operations.
"""


def sgd(
    weights: Weights, gradients: Weights, rate: Rate, memory: Any = None
) -> tuple[Weights, Any]:
    """weights - rate * gradients."""
    if isinstance(rate, int | float):  # one operator for each of the weights, instead of two
        return {n: w.sub(gradients[n], alpha=rate) for n, w in weights.items()}, None
    return {n: w - rate[n] * gradients[n] for n, w in weights.items()}, None


@dataclass(frozen=True)
class Momentum:
    """v <- decay * v + gradients;  weights - rate * v  (Polyak, 1964, as torch.optim.SGD).

    Raises ValueError for a decay that is not in [0, 1).
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        _refuse_decay("Momentum", "decay", self.decay)

    def __call__(
        self, weights: Weights, gradients: Weights, rate: Rate, memory: Any
    ) -> tuple[Weights, Any]:
        """One step; the memory is v."""
        if memory is not None:
            gradients = {n: self.decay * memory[n] + g for n, g in gradients.items()}
        return sgd(weights, gradients, rate)[0], gradients


@dataclass(frozen=True)
class Adam:
    """Steps of about ``rate`` along gradients divided by their recent size (Kingma and Ba, 2015).

    ``epsilon`` stands inside the root, where the original adds it outside: the derivative of
    sqrt(v) at v = 0, where a ReLU was never active, would be infinite.

    Raises ValueError for decays that are not in [0, 1), and for epsilon <= 0.
    """

    decay: float = 0.9
    decay_of_squares: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _refuse_decay("Adam", "decay", self.decay)
        _refuse_decay("Adam", "decay_of_squares", self.decay_of_squares)
        if not self.epsilon > 0:
            raise ValueError(
                f"Adam: needs epsilon > 0, without which a gradient of zero has no derivative; "
                f"found {self.epsilon}."
            )

    def __call__(
        self, weights: Weights, gradients: Weights, rate: Rate, memory: Any
    ) -> tuple[Weights, Any]:
        """One step; the memory is the number of steps, the mean and the mean square."""
        zeros = {n: torch.zeros_like(g) for n, g in gradients.items()}
        count, mean, square = (0, zeros, zeros) if memory is None else memory
        a, b = self.decay, self.decay_of_squares
        mean = {n: a * mean[n] + (1 - a) * g for n, g in gradients.items()}
        square = {n: b * square[n] + (1 - b) * g * g for n, g in gradients.items()}
        count += 1
        steps = {
            n: (m / (1 - a**count)) * (square[n] / (1 - b**count) + self.epsilon**2).rsqrt()
            for n, m in mean.items()
        }
        return sgd(weights, steps, rate)[0], (count, mean, square)


@dataclass(frozen=True)
class Descent:
    """How to go down: so many steps, at these rates, each with what ``update`` makes of a gradient.

    ``clip``  the greatest length that the gradient of all weights together may have.
    """

    steps: int
    rates: Rates
    update: Update = sgd
    clip: float | None = None

    def along(self, gradients_at: Gradients, weights: Weights) -> Iterator[Weights]:
        """The weights before the first step, after it, … after the last: ``steps`` + 1 of them.

        One after the other, so that whoever wants the last alone (:func:`last`) keeps no others.
        """
        memory = None
        yield weights
        for k in range(self.steps):
            gradients = gradients_at(weights)
            if self.clip is not None:
                gradients = clipped(gradients, self.clip)
            weights, memory = self.update(weights, gradients, self.rate(k), memory)
            yield weights

    def rate(self, step: int) -> Rate:
        """The rate of step 0, 1, …"""
        rates = self.rates
        return rates[min(step, len(rates) - 1)] if isinstance(rates, Sequence) else rates


def last(path: Iterator[Weights]) -> Weights:
    """The last weights of a path, which must have some."""
    for weights in path:  # noqa: B007  (the last one is what is asked for)
        pass
    return weights


def gradients_of(loss: Loss) -> Gradients:
    """The gradient of ``loss`` as a function of the weights, differentiable in grad mode.

    ``torch.func.grad`` is right everywhere, but its wrapped tensors make a small network's step
    half as long again; outside of ``torch.func`` autograd does the same.
    """

    def gradients_at(weights: Weights) -> Weights:
        if in_torch_func() or torch.is_inference_mode_enabled():
            return torch.func.grad(loss)(weights)  # type: ignore[no-any-return]
        # A second derivative is for what will be trained: frozen learners keep no graph.
        trained = any(w.requires_grad for w in weights.values()) or depends_on_trained(loss)
        recorded = torch.is_grad_enabled() and trained
        with torch.enable_grad():
            # Views, because one weight may come from another, as a head made of prototypes does.
            free = {
                n: w.view_as(w) if recorded and w.requires_grad else w.detach().requires_grad_()
                for n, w in weights.items()
            }
            gradients = torch.autograd.grad(
                loss(free), list(free.values()), create_graph=recorded, materialize_grads=True
            )
        return dict(zip(weights, gradients, strict=True))

    return gradients_at


def depends_on_trained(loss: Loss) -> bool:
    """Whether gradients may be asked of more than the weights; a loss that cannot tell may."""
    return bool(getattr(loss, "requires_grad", True))


def constant(gradients_at: Gradients) -> Gradients:
    """The same gradients, as numbers that depend on nothing, and whose graph is never built."""
    return torch.no_grad()(gradients_at)


def clipped(gradients: Weights, length: float) -> Weights:
    """Gradients as they are, or shortened together to ``length``; differentiable also at zero."""
    squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    long = squares > length**2
    factor = torch.where(long, length * torch.where(long, squares, 1.0).rsqrt(), 1.0)
    return {name: factor * gradient for name, gradient in gradients.items()}


def _refuse_decay(who: str, name: str, decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"{who}: {name} must be in [0, 1); found {decay}.")
