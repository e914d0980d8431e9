"""Proto-MAML equals prototypical networks before its first step, and its equations after it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.trees import map_tree
from quickstudy.core import Task
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder, MetaGradient
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place


def backbone() -> MLP:
    torch.manual_seed(0)
    return MLP(3, (6, 4)).double()


def task(ways: int = 4) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4 * ways, 3, generator=generator).double()
    targets = torch.arange(ways).repeat(4)
    ones, n = torch.ones(4 * ways).double(), 2 * ways
    rows = qs.Examples(inputs, targets, ones, one_place(ones))
    support, query = (
        map_tree(lambda leaf, s=s: leaf[s], rows) for s in (slice(n), slice(n, 2 * n))
    )
    return Task(support, query, qs.classification(ways))


@pytest.mark.parametrize("ways", [2, 4, 7])
def test_before_the_first_step_it_equals_a_prototypical_network(ways: int) -> None:
    one, net = task(ways), backbone()
    found = qs.ProtoMAML(net, steps=0)(one.support, one.spec)(one.query.inputs)
    expected = qs.Prototypical(net)(one.support, one.spec)(one.query.inputs)
    constant = (
        net(one.query.inputs).square().sum(-1, keepdim=True)
    )  # |f|², the same for every class
    torch.testing.assert_close(found - constant, expected)


@pytest.mark.parametrize("meta_gradient", [Exact(), Exact(recompute=True), FirstOrder()])
def test_loss_and_gradient_equal_those_of_the_equations(meta_gradient: MetaGradient) -> None:
    one, net = task(), backbone()
    learner = qs.ProtoMAML(net, steps=2, rate=0.1, meta_gradient=meta_gradient)
    start = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def features(weights: list[Tensor], inputs: Tensor) -> Tensor:
        a, b, c, d = weights[:4]
        return F.linear(F.linear(inputs, a, b).relu(), c, d).relu()

    first = features(start, one.support.inputs)
    means = torch.stack([first[one.support.targets == k].mean(0) for k in range(4)])
    # Copies, so that gradients of the weights do not include the path through the initial head.
    weights: list[Tensor] = [*(s.clone() for s in start), 2 * means, -means.square().sum(-1)]
    for _ in range(2):
        logits = F.linear(features(weights, one.support.inputs), *weights[4:])
        loss = F.cross_entropy(logits, one.support.targets)
        own = torch.autograd.grad(loss, weights, create_graph=True)
        if isinstance(meta_gradient, FirstOrder):
            own = tuple(gradient.detach() for gradient in own)
        weights = [w - 0.1 * s for w, s in zip(weights, own, strict=True)]
    logits = F.linear(features(weights, one.query.inputs), *weights[4:])
    expected = F.cross_entropy(logits, one.query.targets)
    gradients = torch.autograd.grad(expected, start)

    found = query_loss(learner, one).loss
    found.backward()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_the_head_adapts_whatever_else_adapts() -> None:
    one, net = task(), backbone()
    learner = qs.ProtoMAML(net, steps=2, rate=0.1, adapts="layers.2.*")
    weights = learner.adapt(one.support, one.spec)["weights"]
    names = ["backbone.layers.2.weight", "backbone.layers.2.bias", "head.weight", "head.bias"]
    assert list(weights) == names
    state = learner.adapt(one.support, one.spec)
    features = learner.embed(state, one.query.inputs)
    answers = features @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(answers, learner.predict(state, one.query.inputs, one.spec))


def test_steps_lower_the_support_loss() -> None:
    one = task()
    path = qs.ProtoMAML(backbone(), steps=5, rate=0.1)
    losses = [
        float(F.cross_entropy(path.predict(s, one.support.inputs, one.spec), one.support.targets))
        for s in path.trajectory(one.support, one.spec)
    ]
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True)


def test_features_are_the_inputs_of_the_adapted_head() -> None:
    one, learner = task(), qs.ProtoMAML(backbone(), rate=0.1)
    state = learner.adapt(one.support, one.spec)
    features, weights = learner.embed(state, one.query.inputs), state["weights"]
    answers = features @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(answers, learner.predict(state, one.query.inputs, one.spec))


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 0; found -1"):
        qs.ProtoMAML(backbone(), steps=-1)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.ProtoMAML(Conv4(4, "running"))
    with pytest.raises(ValueError, match=r"ends in a head: found Conv4\(outputs=5\)"):
        qs.ProtoMAML(Conv4(4, outputs=5))
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        qs.ProtoMAML(backbone(), steps=0, learn_rates=True)
    rows = qs.examples(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="ProtoMAML: gives answers of the kind Classes"):
        qs.ProtoMAML(backbone())(rows, qs.regression())
