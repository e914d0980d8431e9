"""A learnt rate for each step and parameter tensor: an option of four learners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Examples, Learner, Task
from quickstudy.learners.gradient.descend import Momentum
from quickstudy.learners.gradient.meta_gradients import FiniteDifference
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place

BODY, HEAD = ["layers.0.weight", "layers.0.bias"], ["head.weight", "head.bias"]
LEARNERS = {
    qs.MAML: (3, [*BODY, *HEAD]),
    qs.ANIL: (3, HEAD),
    qs.BOIL: (3, BODY),
    qs.ProtoMAML: (None, [*BODY, *HEAD]),
}
ALL = pytest.mark.parametrize("learner", LEARNERS)


def task() -> Task:
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> Examples:
        inputs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        weights = torch.ones(n, dtype=torch.float64)
        return Examples(inputs, torch.arange(n) % 3, weights, one_place(weights))

    return Task(rows(6), rows(9), qs.classification(3))


def made(learner: Any, **options: object) -> Any:
    torch.manual_seed(0)
    backbone = MLP(4, (5,), outputs=LEARNERS[learner][0]).double()
    return learner(backbone, **({"steps": 3, "rate": 0.05} | options))


def answers(learner: Learner) -> Tensor:
    one = task()
    return learner(one.support, one.spec)(one.query.inputs)


@ALL
def test_initial_learnt_rates_give_the_same_predictions(learner: Any) -> None:
    options = {"update": Momentum(0.8), "clip": 1.0}  # its state must be kept from step to step
    fixed, learnt = (made(learner, learn_rates=rates, **options) for rates in (False, True))
    torch.testing.assert_close(answers(learnt), answers(fixed), rtol=1e-12, atol=1e-12)
    assert fixed.learnt_rates() == {}
    assert "rates" not in dict(fixed.named_parameters())


@ALL
def test_rates_are_named_after_the_parameters_that_they_update(learner: Any) -> None:
    rates = made(learner, learn_rates=True).learnt_rates()
    assert list(rates) == LEARNERS[learner][1]
    for each in rates.values():
        assert torch.equal(each, torch.full((3,), 0.05, dtype=torch.float64))
    for name in rates:
        ours, one = made(learner, learn_rates=True), task()
        with torch.no_grad():
            ours.learnt_rates()[name].zero_()  # a view of the parameter
        start, *_, end = (state["weights"] for state in ours.trajectory(one.support, one.spec))
        still = [n.removeprefix("backbone.") for n, w in end.items() if torch.equal(w, start[n])]
        assert still == [name]


@ALL
@pytest.mark.parametrize("meta_gradient", [None, FiniteDifference()], ids=str)
def test_every_rate_gets_its_gradient(learner: Any, meta_gradient: object) -> None:
    options = {} if meta_gradient is None else {"meta_gradient": meta_gradient}
    ours, one = made(learner, learn_rates=True, **options), task()
    query_loss(ours, one).loss.backward()
    gradient, h = ours.rates.grad, 1e-6
    for place in [(0, 0), (1, 1), (2, len(LEARNERS[learner][1]) - 1)]:
        losses = []
        for side in (h, -h):
            with torch.no_grad():
                ours.rates[place] += side
            losses.append(float(query_loss(ours, one).loss.detach()))
            with torch.no_grad():
                ours.rates[place] -= side
        expected = (losses[0] - losses[1]) / (2 * h)
        # Finite differences are inexact, and later steps depend on them.
        assert float(gradient[place]) == pytest.approx(
            expected, rel=1e-5 if meta_gradient is None else 0.2
        )


@ALL
def test_further_steps_use_the_rates_of_the_last(learner: Any) -> None:
    ours = made(learner, learn_rates=True, steps=2, test_steps=4).eval()
    with torch.no_grad():
        ours.rates[1] = 0.0
    path = ours.trajectory(task().support, task().spec)
    assert len(path) == 5
    for later in path[2:]:
        for name, weight in path[1]["weights"].items():
            assert torch.equal(later["weights"][name], weight)
    assert any(not torch.equal(w, path[1]["weights"][n]) for n, w in path[0]["weights"].items())
