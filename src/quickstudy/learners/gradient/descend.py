"""Gradient descent as a function: weights -> weights, differentiable in the initial weights."""

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
"""One learning rate for all weights, or one by name (a scalar or a rate per entry)."""

Rates = Rate | Sequence[Weights]
"""One rate for all steps, or one rate for each step; later steps repeat the last rate."""

Update = Callable[[Weights, Weights, Rate, Any], tuple[Weights, Any]]
"""(weights, gradients, rate, memory) -> weights and memory; memory is None before the first step.

Any function of this signature works if its operations are differentiable.
"""


def sgd(
    weights: Weights, gradients: Weights, rate: Rate, memory: Any = None
) -> tuple[Weights, Any]:
    """weights - rate * gradients."""
    if isinstance(rate, int | float):  # one operation per weight tensor instead of two
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
    """Gradients divided by the root of their running mean square (Kingma and Ba, 2015).

    ``epsilon`` is added inside the square root; the original adds it outside. There the derivative
    of sqrt(v) would be infinite at v = 0, which occurs where a ReLU was never active.

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
    """Settings of gradient descent: the number of steps, their rates, the update rule, clipping.

    ``clip``  greatest norm of the gradient of all weights together; None for no clipping.
    """

    steps: int
    rates: Rates
    update: Update = sgd
    clip: float | None = None

    def along(self, gradients_at: Gradients, weights: Weights) -> Iterator[Weights]:
        """The weights before the first step, after it, … after the last: ``steps`` + 1 of them.

        They are generated one at a time, so that :func:`last` keeps only one in memory.
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
    """The last weights of a path, which must not be empty."""
    for weights in path:  # noqa: B007  (only the last value is returned)
        pass
    return weights


def gradients_of(loss: Loss) -> Gradients:
    """The gradient of ``loss`` as a function of the weights, differentiable in grad mode.

    ``torch.func.grad`` is correct everywhere, but its wrapped tensors make a step of a small
    network 1.5 times as long. Outside of ``torch.func`` we call autograd, with the same result.
    """

    def gradients_at(weights: Weights) -> Weights:
        if in_torch_func() or torch.is_inference_mode_enabled():
            return torch.func.grad(loss)(weights)  # type: ignore[no-any-return]
        # Only training needs second derivatives, so a frozen learner keeps no graph.
        trained = any(w.requires_grad for w in weights.values()) or depends_on_trained(loss)
        recorded = torch.is_grad_enabled() and trained
        with torch.enable_grad():
            # Views separate the weights: one may be computed from another (a prototype head).
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
    """Whether the loss may depend on other tensors that need gradients; True if unknown."""
    return bool(getattr(loss, "requires_grad", True))


def constant(gradients_at: Gradients) -> Gradients:
    """The same gradients, as constants: no graph is built."""
    return torch.no_grad()(gradients_at)


def clipped(gradients: Weights, length: float) -> Weights:
    """Gradients scaled to a joint norm of at most ``length``; differentiable also at zero."""
    squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    long = squares > length**2
    factor = torch.where(long, length * torch.where(long, squares, 1.0).rsqrt(), 1.0)
    return {name: factor * gradient for name, gradient in gradients.items()}


def _refuse_decay(who: str, name: str, decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"{who}: {name} must be in [0, 1); found {decay}.")
