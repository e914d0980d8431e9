"""Inner updates equal the steps of torch's optimisers on the same problem."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim import Adam as TorchAdam

import quickstudy as qs
from quickstudy.learners.gradient.descend import (
    Adam,
    Descent,
    Momentum,
    Update,
    Weights,
    clipped,
    gradients_of,
    last,
    sgd,
)

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
def test_six_steps_equal_those_of_torch(
    update: Update, torchs: Callable[[list[Tensor]], Optimizer], clip: float | None
) -> None:
    path = list(Descent(6, 0.05, update, clip).along(gradients_of(loss), START))
    own = {name: w.clone().requires_grad_() for name, w in START.items()}
    optimiser = torchs(list(own.values()))
    for found in path[1:]:
        optimiser.zero_grad()
        loss(own).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            gradients = torch.cat([w.grad.flatten() for w in own.values() if w.grad is not None])
            for w in own.values():
                w.grad = w.grad * min(1.0, clip / float(gradients.norm()))  # type: ignore[operator]
        optimiser.step()
        for name, w in own.items():
            torch.testing.assert_close(found[name], w.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("clip", "length"), [(2.0, 1.3), (1.4, 1.3), (1.2, 1.2), (0.1, 0.1)])
def test_gradients_are_clipped_by_their_common_norm(clip: float, length: float) -> None:
    gradients = {
        "a": torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True),
        "b": torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True),
    }
    found = clipped(gradients, clip)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient * length / 1.3)
    rows = tuple(gradients.values())
    assert torch.autograd.gradcheck(
        lambda a, b: tuple(clipped({"a": a, "b": b}, clip).values()), rows
    )


def test_adams_epsilon_is_inside_the_root() -> None:
    """sqrt(v + epsilon²) is between sqrt(v) and torch's sqrt(v) + epsilon."""
    gradient = {"a": torch.tensor([1e-3, 1.0], dtype=torch.float64)}
    weights = {"a": torch.zeros(2, dtype=torch.float64)}
    found = Adam(epsilon=1e-3)(weights, gradient, 1.0, None)[0]["a"]
    torch.testing.assert_close(found, -gradient["a"] / (gradient["a"] ** 2 + 1e-6).sqrt())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(1.0), r"Momentum: decay must be in \[0, 1\); found 1"),
        (lambda: Momentum(-0.1), "found -0.1"),
        (lambda: Adam(decay=float("nan")), "Adam: decay must be"),
        (lambda: Adam(decay_of_squares=1.0), "Adam: decay_of_squares must be"),
        (lambda: Adam(epsilon=0.0), "needs epsilon > 0, .* found 0.0"),
    ],
)
def test_invalid_settings_of_updates_are_refused(make: Callable[[], Update], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_each_step_has_its_rate_and_further_steps_have_the_last_one() -> None:
    rates = [{"a": torch.tensor(r), "b": torch.tensor(2 * r)} for r in (0.1, 0.02)]
    path = list(Descent(4, rates, Momentum(0.5)).along(gradients_of(loss), START))
    velocity = {name: torch.zeros_like(w) for name, w in START.items()}
    for k, (now, after) in enumerate(pairwise(path)):
        gradients = torch.func.grad(loss)(now)
        for name, w in now.items():
            velocity[name] = 0.5 * velocity[name] + gradients[name]
            step = rates[min(k, 1)][name] * velocity[name]
            torch.testing.assert_close(after[name], w - step, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("one_for_all", [True, False], ids=["rate", "rates"])
def test_a_step_of_sgd_is_differentiable_in_weights_gradients_and_rate(one_for_all: bool) -> None:
    names = list(START)
    gradients = [w.cos().requires_grad_() for w in START.values()]
    weights = [w.clone().requires_grad_() for w in START.values()]
    rates = [] if one_for_all else [torch.full_like(w, 0.3).requires_grad_() for w in weights]

    def step(*parts: Tensor) -> tuple[Tensor, ...]:
        w, g, r = (dict(zip(names, parts[i : i + 2], strict=False)) for i in (0, 2, 4))
        return tuple(sgd(w, g, 0.3 if one_for_all else r)[0].values())

    assert torch.autograd.gradcheck(step, (*weights, *gradients, *rates))
    for found, w, g in zip(step(*weights, *gradients, *rates), weights, gradients, strict=True):
        torch.testing.assert_close(found, w - 0.3 * g)


def test_a_gradient_of_zero_has_a_derivative() -> None:
    start = {"a": torch.zeros(2, requires_grad=True)}
    descent = Descent(2, 0.1, Adam(), 1.0)
    end = last(descent.along(gradients_of(lambda w: w["a"].relu().sum()), start))
    (gradient,) = torch.autograd.grad(end["a"].sum(), [start["a"]])
    assert gradient.isfinite().all()


def small_learner() -> tuple[qs.MAML, qs.Examples]:
    torch.manual_seed(0)
    learner = qs.MAML(qs.backbones.Conv4(8, outputs=3), 2, 0.1).eval()
    return learner, qs.examples(torch.randn(3, 1, 28, 28), torch.arange(3))


def test_adapting_in_inference_mode_gives_the_same_weights() -> None:
    learner, support = small_learner()
    with torch.no_grad():
        expected = learner(support, qs.classification(3))(support.inputs)
    with torch.inference_mode():
        found = learner(support, qs.classification(3))(support.inputs)
    torch.testing.assert_close(found, expected)


def test_frozen_learners_record_no_graph() -> None:
    learner, support = small_learner()
    spec = qs.classification(3)
    assert learner(support, spec)(support.inputs).requires_grad
    learner.requires_grad_(False)
    state = learner.adapt(support, spec)
    assert not any(weight.requires_grad for weight in state["weights"].values())
    assert not learner(support, spec)(support.inputs).requires_grad
    inputs = support.inputs.clone().requires_grad_()
    through = learner(support._replace(inputs=inputs), spec)(support.inputs)
    (gradient,) = torch.autograd.grad(through.sum(), inputs)
    assert gradient.abs().sum() > 0
