"""Inner updates against torch's optimisers on the same problem."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim import Adam as TorchAdam

from quickstudy.learners.gradient.descend import Adam, Momentum, Update, Weights, descend, sgd

GENERATOR = torch.Generator().manual_seed(0)
START = {
    "a": torch.randn(3, generator=GENERATOR, dtype=torch.float64),
    "b": torch.randn(2, 2, generator=GENERATOR, dtype=torch.float64),
}


def loss(weights: Weights) -> Tensor:
    return (weights["a"].sin().sum() * weights["b"].exp().mean() - 1).square() + weights["b"].sum()


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(
    ("update", "torchs"),
    [
        (sgd, lambda p: SGD(p, lr=0.05)),
        (Momentum(0.8), lambda p: SGD(p, lr=0.05, momentum=0.8)),
        (Adam(0.8, 0.95), lambda p: TorchAdam(p, lr=0.05, betas=(0.8, 0.95), eps=0.0)),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_six_steps_are_those_of_torch(
    update: Update, torchs: Callable[[list[Tensor]], Optimizer], clip: float | None
) -> None:
    path = descend(loss, START, 6, 0.05, update=update, clip=clip)
    own = {name: w.clone().requires_grad_() for name, w in START.items()}
    optimiser = torchs(list(own.values()))
    for found in path[1:]:
        optimiser.zero_grad()
        loss(own).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            slopes = torch.cat([w.grad.flatten() for w in own.values() if w.grad is not None])
            for w in own.values():
                w.grad = w.grad * min(1.0, clip / float(slopes.norm()))  # type: ignore[operator]
        optimiser.step()
        for name, w in own.items():
            torch.testing.assert_close(found[name], w.detach(), rtol=1e-12, atol=1e-12)


def test_adams_epsilon_stands_inside_the_root() -> None:
    """sqrt(v + epsilon²) lies between sqrt(v) and torch's sqrt(v) + epsilon."""
    gradient = {"a": torch.tensor([1e-3, 1.0], dtype=torch.float64)}
    weights = {"a": torch.zeros(2, dtype=torch.float64)}
    found = Adam(epsilon=1e-3)(weights, gradient, 1.0, None)[0]["a"]
    torch.testing.assert_close(found, -gradient["a"] / (gradient["a"] ** 2 + 1e-6).sqrt())


def test_a_gradient_of_zero_has_a_derivative() -> None:
    start = {"a": torch.zeros(2, requires_grad=True)}
    end = descend(lambda w: w["a"].relu().sum(), start, 2, 0.1, update=Adam(), clip=1.0)[-1]
    (slope,) = torch.autograd.grad(end["a"].sum(), [start["a"]])
    assert slope.isfinite().all()
