"""Meta-SGD equals its equations, differentiated with plain autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.trees import map_tree
from quickstudy.core import Task
from quickstudy.learners.gradient.meta_gradients import FirstOrder, Implicit
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place


def made(steps: int = 1) -> qs.MetaSGD:
    torch.manual_seed(0)
    return qs.MetaSGD(MLP(3, (5,), outputs=4), steps).double()


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, generator=generator).double()
    targets = torch.arange(4).repeat(3)
    ones = torch.ones(12).double()
    rows = qs.Examples(inputs, targets, ones, one_place(ones))
    support, query = (map_tree(lambda leaf, s=s: leaf[s], rows) for s in (slice(4), slice(4, 12)))
    return Task(support, query, qs.classification(4))


def run(weights: list[Tensor], inputs: Tensor) -> Tensor:
    a, b, c, d = weights
    return F.linear(F.linear(inputs, a, b).relu(), c, d)


@pytest.mark.parametrize("steps", [1, 3])
def test_loss_and_both_gradients_equal_those_of_the_equation(steps: int) -> None:
    learner, one = made(steps), task()
    start = [p.detach().clone().requires_grad_() for p in learner.backbone.parameters()]
    rates = [r.detach().clone().requires_grad_() for r in learner.rates]
    weights: list[Tensor] = list(start)
    for _ in range(steps):
        loss = F.cross_entropy(run(weights, one.support.inputs), one.support.targets)
        own = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - r * g for w, r, g in zip(weights, rates, own, strict=True)]
    expected = F.cross_entropy(run(weights, one.query.inputs), one.query.targets)
    gradients = torch.autograd.grad(expected, start + rates)

    found = query_loss(learner, one).loss
    found.backward()
    torch.testing.assert_close(found, expected)
    parameters = [*learner.backbone.parameters(), *learner.rates]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_first_order_keeps_predictions_and_at_one_step_the_gradient_of_the_rates() -> None:
    one, exact = task(), made()
    first = qs.MetaSGD(exact.backbone, meta_gradient=FirstOrder()).double()
    first.load_state_dict(exact.state_dict())
    losses = [query_loss(learner, one).loss for learner in (exact, first)]
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad(loss, [next(learner.backbone.parameters()), *learner.rates])
        for loss, learner in zip(losses, (exact, first), strict=True)
    ]
    assert not torch.allclose(gradients[0][0], gradients[1][0])  # second derivatives
    torch.testing.assert_close(
        gradients[0][1:], gradients[1][1:]
    )  # with one step, the gradient of the rates contains none


def test_test_steps_may_differ_from_training_steps() -> None:
    learner, one = qs.MetaSGD(made().backbone, 1, test_steps=4), task()
    assert len(learner.train().trajectory(one.support, one.spec)) == 2
    assert len(learner.eval().trajectory(one.support, one.spec)) == 5


def test_rates_start_as_in_the_paper_and_are_named_after_the_weights() -> None:
    torch.manual_seed(0)
    learner = qs.MetaSGD(MLP(30, (50,), outputs=4))
    rates = learner.learnt_rates()
    shapes = {name: p.shape for name, p in learner.backbone.named_parameters()}
    assert {name: rate.shape for name, rate in rates.items()} == shapes
    every = torch.cat([rate.flatten() for rate in rates.values()])
    assert 0.005 <= float(every.min()) < 0.006
    assert 0.099 < float(every.max()) <= 0.1


def test_a_negative_rate_raises_the_support_loss() -> None:
    learner, one = made(), task()

    def support_loss(scale: float) -> float:
        with torch.no_grad():
            for rate in learner.rates:
                rate.fill_(scale)
        predictions = learner(one.support, one.spec)(one.support.inputs)
        return float(F.cross_entropy(predictions, one.support.targets))

    assert support_loss(0.05) < support_loss(0.0) < support_loss(-0.05)


def test_the_trajectory_has_every_step() -> None:
    learner, one = made(3), task()
    path = learner.trajectory(one.support, one.spec)
    assert len(path) == 4
    last = learner.adapt(one.support, one.spec)["weights"]
    assert all(torch.equal(path[-1]["weights"][name], last[name]) for name in last)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        made(0)
    with pytest.raises(ValueError, match=r"MetaSGD: Implicit\(\) gives learnt rates no gradient"):
        qs.MetaSGD(MLP(outputs=1), meta_gradient=Implicit())
    with pytest.raises(ValueError, match=r"lowest=0.2, highest=0.1"):
        qs.MetaSGD(MLP(outputs=1), lowest=0.2)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.MetaSGD(Conv4(4, "running", outputs=5))
