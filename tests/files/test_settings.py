"""A learner built by the user's own code is loaded into one with the same settings, or refused."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.learners.gradient.descend import Momentum, sgd
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.learners.metric.distances import cosine
from quickstudy.learners.transfer.linear_probe import logistic


class Own(nn.Module):
    """A backbone whose settings change what it gives, but no shape."""

    def __init__(self, factor=1.0, activation=nn.ReLU, power=None, outputs=4):
        super().__init__()
        self.linear, self.act = nn.Linear(4, outputs), activation()
        self.factor, self.power = factor, power

    def forward(self, inputs):
        return self.factor * self.act(self.linear(inputs))


class OwnLearner(qs.Learner):
    def __init__(self, scale):
        super().__init__()
        self.net, self.scale = nn.Linear(4, 4), scale

    def adapt(self, support, spec):
        return {"mean": self.net(support.inputs).mean(0)}

    def predict(self, state, inputs, spec):
        return self.scale * (self.net(inputs) - state["mean"])[:, : spec.outputs]


def manhattan(a, b):
    return (a[:, None] - b).abs().sum(-1)


@dataclass(frozen=True)
class Noise:
    size: float = 0.1


def with_attribute(value):
    backbone = Own()
    backbone.noise = value
    return qs.Prototypical(backbone)


def changed(activation):
    learner = qs.Prototypical(qs.backbones.MLP(4, (4,)))
    learner.backbone.layers[1] = activation
    return learner


def maml(**settings):
    return qs.MAML(Own(), **settings)


class Box:
    def __init__(self, value):
        self.value = value


def times(factor):
    return lambda x: x * factor


def with_buffer(value):
    backbone = Own()
    backbone.register_buffer("unsaved", torch.tensor(value), persistent=False)
    return qs.Prototypical(backbone)


OTHERS = {
    "scale": (lambda: qs.Prototypical(Own(), scale=0.1), lambda: qs.Prototypical(Own())),
    "distance": (lambda: qs.Prototypical(Own(), cosine), lambda: qs.Prototypical(Own(), manhattan)),
    "head": (lambda: qs.LinearProbe(Own(), logistic), lambda: qs.LinearProbe(Own())),
    "rate": (lambda: maml(rate=0.1), lambda: maml(rate=0.2)),
    "steps": (lambda: maml(steps=2), lambda: maml(steps=3)),
    "update": (lambda: maml(update=Momentum(0.5)), lambda: maml(update=Momentum(0.9))),
    "kind of update": (lambda: maml(update=Momentum()), lambda: maml(update=sgd)),
    "meta-gradient": (lambda: maml(meta_gradient=FirstOrder()), maml),
    "adapts": (lambda: maml(adapts=("*.weight",)), maml),
    "own factor": (lambda: qs.Prototypical(Own(2.0)), lambda: qs.Prototypical(Own(3.0))),
    "own activation": (lambda: qs.Prototypical(Own()), lambda: qs.Prototypical(Own(1, nn.Tanh))),
    "own power": (lambda: qs.Prototypical(Own(power=2)), lambda: qs.Prototypical(Own())),
    "torch's setting": (lambda: changed(nn.LeakyReLU(0.1)), lambda: changed(nn.LeakyReLU(0.2))),
    "part": (lambda: changed(nn.GELU()), lambda: changed(nn.SiLU())),
    "changed part": (lambda: changed(nn.GELU()), lambda: changed(nn.ReLU())),
    "own learner": (lambda: OwnLearner(1.0), lambda: OwnLearner(2.0)),
    "list": (lambda: with_attribute([1, 2]), lambda: with_attribute([1, 3])),
    "dict": (lambda: with_attribute({"a": 1}), lambda: with_attribute({"a": 2})),
    "dataclass": (lambda: with_attribute(Noise()), lambda: with_attribute(Noise(0.2))),
    "array": (lambda: with_attribute(np.ones(3)), lambda: with_attribute(np.arange(3.0))),
    "tensor": (lambda: with_attribute(torch.ones(3)), lambda: with_attribute(torch.zeros(3))),
    "set": (lambda: with_attribute({1}), lambda: with_attribute({2})),
    "type of numbers": (lambda: with_attribute(torch.half), lambda: with_attribute(torch.float)),
    "object": (lambda: with_attribute(Box(1)), lambda: with_attribute(Box(2))),
    "closure": (lambda: with_attribute(times(1)), lambda: with_attribute(times(2))),
    "list for none": (lambda: with_attribute([1]), lambda: with_attribute(None)),
    "unsaved buffer": (lambda: with_buffer(1.0), lambda: with_buffer(2.0)),
    "partial": (
        lambda: with_attribute(functools.partial(manhattan, b=1)),
        lambda: with_attribute(functools.partial(manhattan, b=2)),
    ),
}  # fmt: skip

SPEC = qs.classification(4)
SUPPORT = qs.examples(
    torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 3] * 2
)


@pytest.mark.parametrize("name", OTHERS)
def test_a_learner_with_other_settings_is_refused(name, tmp_path):
    saved, other = OTHERS[name]
    learner = saved().eval()
    predictor = learner(SUPPORT, SPEC)
    for thing in (learner, predictor):
        path = qs.save(thing, tmp_path / "file")
        with pytest.raises(ValueError, match=rf"{path}.*settings are not those of the saved"):
            qs.load(path, learner=other())
        same = qs.load(path, learner=saved())
        found = same if isinstance(same, qs.Predictor) else same(SUPPORT, SPEC)
        assert found(SUPPORT.inputs).equal(predictor(SUPPORT.inputs))


def test_a_refused_learner_is_not_changed(tmp_path):
    path = qs.save(qs.Prototypical(Own(), scale=0.1), tmp_path / "file")
    own = qs.Prototypical(Own())
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    with pytest.raises(ValueError, match=r"scale=0\.1 in the file, but 1\.0 here"):
        qs.load(path, learner=own)
    with pytest.raises(ValueError, match=r"out_features=4 in the file, but 5 here"):
        qs.load(path, learner=qs.Prototypical(Own(outputs=5), scale=0.1))
    assert all(tensor.equal(before[name]) for name, tensor in own.state_dict().items())


def test_what_training_and_versions_change_is_no_setting(tmp_path):
    learner = maml(rate=0.1)
    path = qs.save(learner.train(), tmp_path / "file")
    later = maml(rate=0.1).eval()
    later.set_progress(0.5)
    later.backbone.added_in_a_later_version = 5
    assert qs.load(path, learner=later) is later


def test_parameters_stay_frozen_as_they_are_in_the_given_learner(tmp_path):
    path = qs.save(qs.Prototypical(Own()), tmp_path / "file")
    own = qs.Prototypical(Own())
    own.backbone.linear.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"frozen in the file or in learner=.*linear\.weight"):
        loaded = qs.load(path, learner=own)
    assert [p.requires_grad for p in loaded.parameters()] == [False, True]


def test_a_learner_that_adapts_other_parameters_is_refused(tmp_path):
    path = qs.save(maml(), tmp_path / "file")
    backbone = Own()
    backbone.linear.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="adapted"):
        qs.load(path, learner=qs.MAML(backbone))


def test_infinite_buffers_of_own_code_are_kept(tmp_path):
    def masked():
        backbone = Own()
        backbone.register_buffer("mask", torch.full((2,), float("-inf")))
        return qs.Prototypical(backbone)

    loaded = qs.load(qs.save(masked(), tmp_path / "file"), learner=masked())
    assert loaded.backbone.mask.isinf().all()


def test_private_attributes_that_differ_are_told_since_they_may_be_counters(tmp_path):
    class Private(Own):
        def __init__(self, factor):
            super().__init__()
            self._factor = factor

    path = qs.save(qs.Prototypical(Private(1.0)), tmp_path / "file")
    with pytest.warns(UserWarning, match=r"backbone\._factor=1\.0 in the file, but 2\.0 here"):
        qs.load(path, learner=qs.Prototypical(Private(2.0)))


def test_weights_computed_from_others_are_no_settings(tmp_path):
    def normed():
        return qs.Prototypical(nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)))).eval()

    learner = normed()
    with torch.no_grad():
        expected = learner(SUPPORT, SPEC)(SUPPORT.inputs)
    loaded = qs.load(qs.save(learner, tmp_path / "file"), learner=normed())
    with torch.no_grad():
        torch.testing.assert_close(loaded(SUPPORT, SPEC)(SUPPORT.inputs), expected)
