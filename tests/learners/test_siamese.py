"""Siamese networks: losses computed from their equations, the nearest row, the learnt distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.learners.metric.siamese import (
    contrastive,
    euclidean,
    linear_contrastive,
    verification,
)


def task(query: list[float], support: list[float], weights: list[float] | None = None) -> qs.Task:
    """Numbers on a line; classes 0, 1, …, one support row each; all queries are of class 0."""
    rows = qs.examples(torch.tensor(support)[:, None], torch.arange(len(support)), weights)
    queries = qs.examples(torch.tensor(query)[:, None], [0] * len(query))
    return qs.Task(rows, queries, qs.classification(len(support)))


def on_the_line(objective=contrastive, margin: float = 1.0) -> qs.Siamese:
    """The features are the inputs."""
    return qs.Siamese(nn.Identity(), objective, margin)


def test_contrastive_loss_equals_its_equation() -> None:
    # D = 0.5 to the row of the same class, 0.5 and 3 to the others; margin 2.
    outcome = contrastive(on_the_line(margin=2.0), task([0.5], [0.0, 1.0, 3.5]))
    same, different = 0.5**2 / 2, (1.5**2 / 2 + 0) / 2
    assert float(outcome.loss) == pytest.approx((same + different) / 2)


def test_linear_contrastive_loss_equals_its_equation() -> None:
    outcome = linear_contrastive(on_the_line(margin=2.0), task([0.5], [0.0, 1.0, 3.5]))
    assert float(outcome.loss) == pytest.approx((0.5 + (1.5 + 0) / 2) / 2)


def test_pairs_are_weighted_by_their_rows() -> None:
    found = contrastive(on_the_line(margin=2.0), task([0.5], [0.0, 1.0, 1.7], [1.0, 1.0, 3.0]))
    different = (1.5**2 / 2 + 3 * 0.8**2 / 2) / 4
    assert float(found.loss) == pytest.approx((0.5**2 / 2 + different) / 2)


def test_verification_equals_binary_cross_entropy_of_the_weighted_l1_distance() -> None:
    torch.manual_seed(0)
    learner = qs.Siamese(MLP(3, (6, 4)), verification).double()
    with torch.no_grad():
        learner.distance.alpha.copy_(torch.tensor([-1.0, 0.5, -2.0, 0.1]))
        learner.distance.bias.fill_(0.3)
    support = qs.examples(torch.randn(4, 3), [0, 1, 0, 1])
    query = qs.examples(torch.randn(3, 3), [1, 0, 0])
    rows = [examples_of(r.inputs.double(), r.targets, r.weights.double()) for r in (support, query)]
    found = verification(learner, qs.Task(*rows, qs.classification(2)))
    alphas = (-1.0, 0.5, -2.0, 0.1)
    losses: dict[bool, list[float]] = {True: [], False: []}
    f, q = (learner.backbone(r.inputs).detach() for r in rows)
    for i in range(3):
        for j in range(4):
            z = sum(a * abs(float(u - v)) for a, u, v in zip(alphas, q[i], f[j], strict=True))
            p = 1 / (1 + math.exp(-(z + 0.3)))
            same = bool(query.targets[i] == support.targets[j])
            losses[same].append(-math.log(p if same else 1 - p))
    expected = sum(sum(kind) / len(kind) for kind in losses.values()) / 2
    assert float(found.loss) == pytest.approx(expected, rel=1e-9)


def test_the_nearest_present_row_decides() -> None:
    learner = on_the_line()
    rows = qs.examples(torch.tensor([[0.0], [4.0], [1.1]]), [0, 0, 1], [1.0, 1.0, 1.0])
    spec = qs.classification(3)
    queries = torch.tensor([[0.5], [1.0], [3.0]])
    logits = learner(rows, spec)(queries)
    torch.testing.assert_close(logits[:, :2], torch.tensor([[-0.5, -0.6], [-1, -0.1], [-1, -1.9]]))
    assert torch.equal(logits.softmax(-1)[:, 2], torch.zeros(3))
    absent = rows._replace(weights=torch.tensor([1.0, 1.0, 0.0]))
    predictor = learner(absent, spec)
    assert predictor(queries).argmax(-1).tolist() == [0, 0, 0]
    shares = learner.attention(predictor.state, queries)
    assert shares.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_the_score_is_the_accuracy_of_the_nearest_row() -> None:
    outcome = contrastive(on_the_line(), task([0.1, 0.2, 0.9, 0.4], [0.0, 1.0]))
    assert float(outcome.score) == pytest.approx(0.75)


def test_the_distance_has_a_finite_gradient_at_zero() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    distances = euclidean(a, torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]))
    gradient: Tensor = torch.autograd.grad(distances.sum(), a)[0]
    torch.testing.assert_close(distances.detach(), torch.tensor([[0.0, 5.0], [0.0, 5.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[-0.6, 0.0, -0.8]] * 2))


def test_the_initial_learnt_distance_is_small_for_similar_rows() -> None:
    torch.manual_seed(0)
    learner = qs.Siamese(MLP(3, (6, 4)), verification)
    rows = qs.examples(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), range(4))
    state = learner.adapt(rows, qs.classification(4))
    distances = learner.distances(state, rows.inputs)
    assert torch.equal(distances.argmin(1), torch.arange(4))
    torch.testing.assert_close(distances.diagonal(), torch.zeros(4))


def test_training_uses_the_objective_given() -> None:
    assert on_the_line(linear_contrastive).objective is linear_contrastive


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="margin must be positive; found 0"):
        on_the_line(margin=0)
    with pytest.raises(ValueError, match=r"verification.*Set an attribute `features`"):
        on_the_line(verification)
