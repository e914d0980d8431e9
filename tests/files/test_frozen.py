"""Frozen parameters survive saving: the loaded learner adapts and trains the same parameters."""

from __future__ import annotations

import json

import pytest
import torch

import quickstudy as qs
from quickstudy.files.registry import build, describe
from quickstudy.files.trees import load_tree, save_tree
from quickstudy.tasks.numbering import draw


def frozen_first_layer(hidden=(8,), outputs=3):
    backbone = qs.backbones.MLP(256, hidden, outputs=outputs)
    backbone.layers[0].requires_grad_(False)
    return backbone


def maml_frozen_afterwards():
    """Its rates are those of the head and the second layer; now the second layer adapts alone."""
    learner = qs.MAML(frozen_first_layer((8, 8)), 2, 0.1, learn_rates=True)
    learner.backbone.head.requires_grad_(False)
    return learner


FROZEN = {
    "maml": lambda: qs.MAML(frozen_first_layer(), 2, 0.1),
    "maml with learnt rates": lambda: qs.MAML(frozen_first_layer(), 2, 0.1, learn_rates=True),
    "maml of some layers": lambda: qs.MAML(frozen_first_layer(), 2, 0.1, adapts=("*.bias",)),
    "meta_sgd": lambda: qs.MetaSGD(frozen_first_layer()),
    "boil": lambda: qs.BOIL(frozen_first_layer((8, 8)), learn_rates=True),
    "proto_maml": lambda: qs.ProtoMAML(frozen_first_layer((8, 8), None), learn_rates=True),
    "cavia": lambda: qs.CAVIA(frozen_first_layer()),
    "prototypical": lambda: qs.Prototypical(frozen_first_layer(outputs=None)),
    "frozen after it was made": maml_frozen_afterwards,
    "trainable after it was made": lambda: qs.MetaSGD(frozen_first_layer()).requires_grad_(),
    "meta_sgd in double precision": lambda: qs.MetaSGD(frozen_first_layer().double()),
}


def trainable(learner):
    return {name: parameter.requires_grad for name, parameter in learner.named_parameters()}


@pytest.mark.parametrize("name", FROZEN)
def test_a_loaded_learner_has_the_same_frozen_parameters_and_predictions(name, classes, tmp_path):
    learner = FROZEN[name]().eval()
    loaded = qs.load(qs.save(learner, tmp_path / "learner"))
    assert trainable(loaded) == trainable(learner)
    assert getattr(loaded, "adapted", None) == getattr(learner, "adapted", None)
    task = draw(qs.episodes(classes, 3, 2, 2), 0, 0)
    if "double" in name:
        task = task._replace(
            support=task.support._replace(
                inputs=task.support.inputs.double(), weights=task.support.weights.double()
            ),
            query=task.query._replace(inputs=task.query.inputs.double()),
        )
    predictor = learner(task.support, task.spec)
    expected = predictor(task.query.inputs)
    assert loaded(task.support, task.spec)(task.query.inputs).equal(expected)
    again = qs.load(qs.save(predictor, tmp_path / "predictor"))
    assert again(task.query.inputs).equal(expected)
    assert again.learner(task.support, task.spec)(task.query.inputs).equal(expected)


@pytest.mark.parametrize("name", FROZEN)
def test_a_description_lists_frozen_parameters_in_json(name):
    learner = FROZEN[name]()
    description = json.loads(json.dumps(describe(learner)))
    rebuilt = build(description)
    assert describe(rebuilt) == description
    assert trainable(rebuilt) == trainable(learner)


def test_a_description_without_frozen_parameters_does_not_list_any():
    assert "frozen" not in json.dumps(describe(qs.MAML(qs.backbones.MLP(4, outputs=3))))


@pytest.mark.parametrize("frozen", ["layers.0.weight", ["layers.9.weight"], [["layers"]], 5, {}])
def test_wrong_names_of_frozen_parameters_are_refused(frozen, tmp_path):
    path = qs.save(qs.Prototypical(qs.backbones.MLP(4, (5,))), tmp_path / "learner")
    tree, about = load_tree(path)
    about["learner"]["backbone"]["frozen"] = frozen
    save_tree(path, tree, about)
    with pytest.raises(ValueError, match="damaged"):
        qs.load(path)


def test_frozen_parameters_do_not_hide_a_changed_part():
    learner = qs.MetaSGD(frozen_first_layer())
    learner.backbone.layers[1] = torch.nn.GELU()
    with pytest.raises(ValueError, match=r"was changed after it was made.*GELU"):
        describe(learner)
