"""Learners on features, with the backbone put in front afterwards; heads on backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.backbones import MLP, Chain, EfficientNetLite, Features, WithHead

SPEC = qs.classification(ways=2)


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return qs.frozen(EfficientNetLite(size=32))


@pytest.fixture
def pictures() -> qs.Examples:
    return qs.examples(torch.rand(6, 3, 32, 32), [0, 1, 0, 1, 0, 1])


def learners(features: int) -> list[qs.Learner]:
    return [
        qs.Prototypical(Features(features)),
        qs.SimpleShot(Features(features)),
        qs.LinearProbe(MLP(features, (16,))),
        qs.Relation(MLP(features, (16,))),
    ]


@pytest.mark.parametrize("index", range(4))
def test_pictures_give_what_their_features_give(backbone, pictures, index):
    learner = learners(backbone.features)[index]
    features = qs.featurise(pictures, backbone, cache=False)
    expected = learner(features, SPEC)
    whole = qs.with_backbone(learner, backbone)(pictures, SPEC)
    adapted_on_features = qs.with_backbone(expected, backbone)
    wanted = expected(features.inputs)
    torch.testing.assert_close(whole(pictures.inputs), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted_on_features(pictures.inputs), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(expected(features.inputs), wanted)  # the learner itself is unchanged


def test_a_predictor_with_its_backbone_is_saved_and_loaded(backbone, pictures, tmp_path):
    features = qs.featurise(pictures, backbone, cache=False)
    predictor = qs.Prototypical(MLP(backbone.features, (8,)))(features, SPEC)
    whole = qs.with_backbone(predictor, backbone)
    loaded = qs.load(qs.save(whole, tmp_path / "whole.safetensors"))
    assert torch.equal(loaded(pictures.inputs), whole(pictures.inputs))


def test_a_head_on_a_frozen_backbone_is_what_adapts(backbone, pictures):
    learner = qs.MAML(WithHead(backbone, outputs=2), steps=3, rate=0.5)
    assert learner.adapted == ("head.weight", "head.bias")
    before = backbone.state_dict()
    predictor = learner(pictures, SPEC)
    head = WithHead(backbone, outputs=2)
    head.load_state_dict(learner.backbone.state_dict())
    weights = [head.head.weight, head.head.bias]
    for _ in range(3):
        loss = nn.functional.cross_entropy(head(pictures.inputs), pictures.targets)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= 0.5 * gradient
    torch.testing.assert_close(
        predictor(pictures.inputs), head(pictures.inputs), rtol=1e-4, atol=1e-5
    )
    assert all(torch.equal(t, before[name]) for name, t in backbone.state_dict().items())


def test_parts_declare_what_they_read_and_give(backbone):
    chain = Chain(backbone, MLP(backbone.features, (16,), outputs=3))
    assert (chain.features, chain.outputs, chain.input_shape) == (16, 3, (3, 32, 32))
    head = WithHead(backbone.double(), outputs=3)
    assert head.head.weight.dtype == torch.float64
    assert Features(4)(torch.ones(1, 4)).shape == (1, 4)


def test_what_does_not_fit_is_refused(backbone):
    with pytest.raises(ValueError, match="does not adapt; found MAML"):
        qs.with_backbone(qs.MAML(MLP(1280, outputs=2)), backbone)
    with pytest.raises(ValueError, match="reads 64 features, but this backbone gives 1280"):
        qs.with_backbone(qs.Prototypical(Features(64)), backbone)
    with pytest.raises(ValueError, match=r"the backbone \(Linear\) does not declare it"):
        qs.with_backbone(qs.Prototypical(Features(64)), nn.Linear(3, 64))
    with pytest.raises(ValueError, match=r"ends in a head: found MLP\(outputs=5\)"):
        WithHead(MLP(outputs=5), outputs=5)
