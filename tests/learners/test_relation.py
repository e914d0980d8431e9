"""Relation Networks equal a loop over pairs, written from the paper's equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP, Conv4
from quickstudy.backbones.kernels.pooling import MaxPool2x2
from quickstudy.backbones.norms import GroupNorm
from quickstudy.learners.metric.relation import compare_maps, compare_vectors, relation_error
from quickstudy.objectives import objective_of

TARGETS, WEIGHTS = [0, 1, 0, 1, -1], [1.0, 1.0, 3.0, 0.0, 1.0]


def numbers(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def task(*shape: int) -> qs.Task:
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    support = examples_of(numbers(1, 5, *shape), torch.tensor(TARGETS), weights)
    weights = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    query = examples_of(numbers(2, 3, *shape), torch.tensor([1, 0, -1]), weights)
    return qs.Task(support, query, qs.classification(3))


def scores(learner: qs.Relation, of: qs.Task) -> torch.Tensor:
    """r of equation 1, pair by pair: (3 queries, 2 classes that have rows)."""
    f, q = (learner.backbone(rows.inputs) for rows in (of.support, of.query))
    means = [(f[0] + 3 * f[2]) / 4, f[1]]
    pairs = [torch.cat([mean, query])[None] for query in q for mean in means]
    return torch.stack([learner.relation(pair).squeeze().sigmoid() for pair in pairs]).view(3, 2)


@pytest.mark.parametrize("maps", [False, True])
def test_scores_and_error_equal_those_of_the_equations(maps: bool) -> None:
    torch.manual_seed(0)
    backbone = Conv4(8, image_size=12, pools=2, flat=False) if maps else MLP(4, (6, 5))
    learner = qs.Relation(backbone, width=8).double()
    of = task(1, 12, 12) if maps else task(4)
    expected = scores(learner, of)
    logits = learner(of.support, of.spec)(of.query.inputs)
    torch.testing.assert_close(logits.sigmoid()[:, :2], expected)
    assert torch.equal(logits.softmax(-1)[:, 2], torch.zeros(3, dtype=torch.float64))
    right = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    squares = (expected[:2] - right).square().mean(1)
    torch.testing.assert_close(relation_error(learner, of).loss, (squares[0] + 2 * squares[1]) / 3)


def test_odds_are_the_exponential_of_the_logits() -> None:
    """Independent scores, conditioned on exactly one right class, give the softmax."""
    r = torch.tensor([0.9, 0.2, 0.4], dtype=torch.float64)
    one = torch.stack([r[k] * torch.cat([1 - r[:k], 1 - r[k + 1 :]]).prod() for k in range(3)])
    torch.testing.assert_close(r.logit().softmax(0), one / one.sum())


def test_training_minimises_the_papers_error() -> None:
    assert objective_of(qs.Relation(MLP(4))) is relation_error


BLOCK = [nn.Conv2d, GroupNorm, nn.ReLU, MaxPool2x2]
SMALL = [nn.Conv2d, GroupNorm, nn.ReLU]  # a map of one pixel has nothing to pool
LAST = [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(("side", "blocks"), [(7, BLOCK + BLOCK), (2, BLOCK + SMALL)])
def test_maps_are_compared_by_two_blocks_and_two_layers(side: int, blocks: list[type]) -> None:
    g = compare_maps((8, side, side), width=16, hidden=5)
    assert [type(layer) for layer in g.children()] == blocks + LAST
    convolutions = [m.weight.shape for m in g.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(16, 16, 3, 3), (16, 16, 3, 3)]
    assert [m.out_features for m in g.modules() if isinstance(m, nn.Linear)] == [5, 1]


def test_vectors_are_compared_by_a_perceptron_with_the_same_norm() -> None:
    g = compare_vectors(6, width=16, hidden=5)
    block = [nn.Linear, GroupNorm, nn.ReLU]
    assert [type(layer) for layer in g.children()] == block + block + LAST[1:]
    sizes = [m.weight.shape for m in g.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(16, 12), (16, 16), (5, 16), (1, 5)]


def test_plots_get_flat_features() -> None:
    learner = qs.Relation(Conv4(8, image_size=12, pools=2, flat=False)).double()
    of = task(1, 12, 12)
    found = learner.embed(learner.adapt(of.support, of.spec), of.query.inputs)
    torch.testing.assert_close(found, learner.backbone(of.query.inputs).flatten(1))


def test_a_backbone_must_declare_its_features() -> None:
    with pytest.raises(ValueError, match=r"Relation.*Identity.*Set an attribute `features`"):
        qs.Relation(nn.Identity())


def test_conv4_gives_maps() -> None:
    backbone = Conv4(8, pools=2, flat=False)
    assert backbone(torch.zeros(2, 1, 28, 28)).shape == (2, *backbone.feature_shape) == (2, 8, 7, 7)
    flat = Conv4(8, pools=3)
    assert flat(torch.zeros(2, 1, 28, 28)).shape == (2, flat.features)
    with pytest.raises(ValueError, match="flat=True"):
        Conv4(outputs=5, flat=False)
    with pytest.raises(ValueError, match="pools=5"):
        Conv4(pools=5)


def test_hooks_on_the_first_layer_of_g_are_called() -> None:
    torch.manual_seed(0)
    learner, one = qs.Relation(MLP(6, (8,))).double(), task(6)
    expected = learner(one.support, one.spec)(one.query.inputs)
    calls: list[object] = []
    learner.relation[0].register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    torch.testing.assert_close(learner(one.support, one.spec)(one.query.inputs), expected)
    assert len(calls) == 1
