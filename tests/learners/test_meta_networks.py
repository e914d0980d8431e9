"""Meta Networks equal algorithm 1, computed one gradient, one row and one layer at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.contract.check import doubled
from quickstudy.core import Task
from quickstudy.learners.memory.meta_networks import GradientMapper
from quickstudy.learners.preprocessing import preprocess
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import pad_rows

WAYS = 3


@pytest.fixture
def task() -> Task:
    torch.manual_seed(1)
    support = qs.examples(torch.randn(5, 2), [2, 0, 1, 0, 2], [1.0, 2.0, 0.5, 1.0, 3.0])
    return doubled(
        Task(support, qs.examples(torch.randn(4, 2), [0, 1, 2, 0]), qs.classification(3))
    )


@pytest.fixture
def learner() -> qs.MetaNetworks:
    torch.manual_seed(0)
    made = qs.MetaNetworks(MLP(2, (8,)), outputs=WAYS, hidden=6).double().eval()
    with torch.no_grad():  # so that the maps are more than a gradient step
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def standard(row: Tensor) -> Tensor:
    return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()


def mapped(mapper: GradientMapper, layer: int, gradient: Tensor) -> Tensor:
    """One number at a time."""
    values = []
    for g in gradient.flatten():
        if abs(float(g)) >= math.exp(-7):
            net_inputs = torch.stack([g.abs().log() / 7, g.sign()])
        else:
            net_inputs = torch.stack([-torch.ones_like(g), math.exp(7) * g])
        values.append(mapper.net(net_inputs)[0] - mapper.rate[layer] * g)
    return torch.stack(values).reshape(gradient.shape)


def augmented(net: nn.Sequential, fast: list[Tensor], x: Tensor) -> Tensor:
    """Two layers, slow and fast side by side; fast is weight, bias, weight, bias."""
    h = net[0](x).relu() + (fast[0] @ x + fast[1]).relu()
    result: Tensor = net[2](h) + fast[2] @ h + fast[3]
    return result


def answers_written_out(learner: qs.MetaNetworks, task: Task) -> Tensor:
    """Algorithm 1, differentiable, with torch's plain autograd."""
    support = task.support
    raw = learner.backbone(support.inputs)
    share = support.weights / support.weights.sum()
    centre = sum(s * r for s, r in zip(share, raw, strict=True))
    rows = [standard(r - centre) for r in raw]

    def gradients(net: nn.Sequential, loss: Tensor) -> tuple[Tensor, ...]:
        slow = [net[0].weight, net[0].bias, net[2].weight, net[2].bias]
        return torch.autograd.grad(loss, slow, create_graph=True)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return logits.logsumexp(0) - logits[y]

    of_u = [
        gradients(
            learner.representation, loss(learner.representation_head(learner.representation(x)), y)
        )
        for x, y in zip(rows, support.targets, strict=True)
    ]
    mean = [sum(s * g[k] for s, g in zip(share, of_u, strict=True)) for k in range(4)]
    fast_u = [mapped(learner.representation_mapper, k // 2, mean[k]) for k in range(4)]
    memory, keys = [], []
    for x, y in zip(rows, support.targets, strict=True):
        of_b = gradients(learner.base, loss(learner.base(x), y))
        memory.append([mapped(learner.base_mapper, k // 2, of_b[k]) for k in range(4)])
        keys.append(augmented(learner.representation, fast_u, x))
    answers = []
    for features in learner.backbone(task.query.inputs):
        x = standard(features - centre)
        query_key = augmented(learner.representation, fast_u, x)
        powers = torch.stack([
            w * (learner.strength * (query_key @ key) / (query_key.norm() * key.norm())).exp()
            for w, key in zip(support.weights, keys, strict=True)
        ])  # fmt: skip
        shares = powers / powers.sum()
        fast = [sum(a * m[k] for a, m in zip(shares, memory, strict=True)) for k in range(4)]
        answers.append(augmented(learner.base, fast, x))
    return torch.stack(answers)


def test_predictions_equal_those_of_algorithm_1(learner: qs.MetaNetworks, task: Task) -> None:
    found = learner(task.support, task.spec)(task.query.inputs)
    torch.testing.assert_close(found, answers_written_out(learner, task), rtol=1e-9, atol=1e-9)


def test_the_meta_gradient_differentiates_through_the_fast_weights(
    learner: qs.MetaNetworks, task: Task
) -> None:
    parameters = list(learner.parameters())
    found = torch.autograd.grad(query_loss(learner, task).loss, parameters)
    expected = torch.autograd.grad(
        task.spec.answer.loss(answers_written_out(learner, task), task.query.targets).mean(),
        parameters,
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_initial_maps_give_about_a_gradient_step() -> None:
    torch.manual_seed(0)
    gradients = [(torch.randn(3, 4), torch.randn(3)), (torch.randn(2, 3), torch.randn(2))]
    for layer, found in zip(gradients, GradientMapper(layers=2)(gradients), strict=True):
        for g, fast in zip(layer, found, strict=True):
            assert (fast + g).abs().max() < 0.02


def test_size_and_sign_of_large_small_and_zero_gradients() -> None:
    gradient = torch.tensor([1.0, -math.exp(-7 / 2), 1e-5, 0.0], dtype=torch.float64)
    expected = [[0.0, 1.0], [-0.5, -1.0], [-1.0, math.exp(7) * 1e-5], [-1.0, 0.0]]
    torch.testing.assert_close(
        preprocess(gradient, p=7.0), torch.tensor(expected, dtype=torch.float64)
    )


def test_the_mapping_of_a_zero_gradient_has_a_finite_derivative() -> None:
    gradient = torch.zeros(3, requires_grad=True)
    (derivative,) = torch.autograd.grad(preprocess(gradient, p=7.0).sum(), gradient)
    assert derivative.isfinite().all()


@torch.no_grad()
def test_attention_to_padding_is_exactly_zero(learner: qs.MetaNetworks, task: Task) -> None:
    state = learner(pad_rows(task.support, 7), task.spec).state
    shares = learner.attention(state, task.query.inputs)
    assert (shares[:, 5:] == 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(4, dtype=torch.float64))


def test_more_outputs_than_the_learner_has_are_refused(
    learner: qs.MetaNetworks, task: Task
) -> None:
    with pytest.raises(ValueError, match="Build it with outputs=4"):
        learner(task.support, qs.classification(4))
