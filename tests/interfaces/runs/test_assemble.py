"""From recipes to parts: options of learners, ways, and the learner's device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.datasets.images import ImageError
from quickstudy.interfaces.runs.assemble import (
    learner_options,
    load_data,
    make_learner,
    make_sources,
    prepare,
)
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.learners.gradient.descend import Adam
from quickstudy.learners.gradient.meta_gradients import Annealed, Exact, Implicit
from quickstudy.tasks.augmentation import augmentation
from quickstudy.tasks.numbering import draw


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # a changed global random state must not matter
        return make_learner(Recipe(seed=seed), (1, 28, 28)).backbone.blocks[0].conv.weight

    assert weights(0).equal(weights(0))
    assert not weights(0).equal(weights(1))


@pytest.mark.parametrize(
    ("learner", "options", "message"),
    [
        ("prototypical", {"distance": "cosin"}, "Did you mean 'cosine'"),
        ("prototypical", {"distance": "ridge"}, "Valid names: squared_euclidean, cosine"),
        ("prototypical", {"distance": ["cosine"]}, "option distance"),
        ("prototypical", {"scale": "abc"}, "option scale of prototypical must be float"),
        ("prototypical", {"scale": float("inf")}, "must be finite"),
        ("prototypical", {"backbone": "conv4"}, "'backbone' is unknown"),
        ("linear_probe", {"head": "cosine"}, "Valid names: ridge, logistic"),
        ("maml", {"steps": 1.5}, "option steps of maml must be int"),
        ("maml", {"meta_gradient": "second"}, "Valid names: exact, first_order, finite_diff"),
        ("maml", {"meta_gradient": {"name": "implicit", "strenth": 1}}, "Did you mean 'strength'"),
        ("maml", {"meta_gradient": {"name": "implicit", "strength": -1}}, "strength > 0"),
        ("maml", {"meta_gradient": {"strength": 1}}, "'None' is unknown"),
        ("maml", {"meta_gradient": {"name": "annealed", "then": "me"}}, "then: 'me' is unknown"),
        ("maml", {"update": {"name": "sgd", "decay": 0.9}}, "sgd has no settings"),
        ("maml", {"update": {"name": "adam", "decay": "much"}}, "decay must be float"),
        ("maml", {"adapts": [1]}, "adapts of maml must be a list of strings"),
        ("maml", {"stps": 1}, "Did you mean 'steps'"),
        ("maml", {3: 1}, "'3' is unknown"),
    ],
)
def test_wrong_options_are_refused(learner, options, message):
    with pytest.raises(ValueError, match=message):
        learner_options(Recipe(learner=learner, options=options))


def test_options_become_arguments():
    options = {"distance": "cosine", "scale": 10}
    arguments = learner_options(Recipe(options=options))
    assert arguments == {"distance": qs.learners.metric.distances.cosine, "scale": 10.0}
    maml = learner_options(Recipe(learner="maml", options={"adapts": ["head.*"], "rate": "1e-2"}))
    assert maml == {"adapts": ("head.*",), "rate": 0.01}
    parts = {"update": "adam", "meta_gradient": {"name": "implicit", "strength": "1e-1"}}
    maml = learner_options(Recipe(learner="maml", options=parts))
    assert maml == {"update": Adam(), "meta_gradient": Implicit(strength=0.1)}


def test_a_part_may_contain_another_part():
    then = {"name": "exact", "recompute": True}
    options = {"meta_gradient": {"name": "annealed", "first_order_until": 0.2, "then": then}}
    found = learner_options(Recipe(learner="maml", options=options))["meta_gradient"]
    assert found == Annealed(0.2, Exact(recompute=True))


def test_tasks_have_the_train_ways_of_the_recipe(short):
    parts = prepare(short)
    assert parts.recipe.train_ways == 8, "20 by default, but there are 8 classes"
    assert draw(parts.sources.train, 0, 0).spec.outputs == 8
    with pytest.raises(ValueError, match=r"train classes: .* 9 ways asked, .* at most 8"):
        prepare(replace(short, train_ways=9))
    with pytest.raises(ValueError, match=r"10 ways were asked, .* of 12 classes .* at most 8 ways"):
        prepare(replace(short, ways=10))


def test_an_adapted_network_has_outputs_for_the_larger_number_of_ways(short):
    parts = prepare(replace(short, learner="maml", train_ways=6))
    for source in (parts.sources.train, parts.sources.test):
        task = draw(source, 0, 0)
        predictions = parts.learner(task.support, task.spec)(task.query.inputs)
        assert predictions.shape[1] == task.spec.outputs


@pytest.mark.parametrize(
    ("changes", "length"),
    [({}, 6), ({"shots": 5}, 26), ({"train_ways": 8, "shots": 2}, 17)],
)
def test_a_sequence_is_as_long_as_the_largest_task(changes, length):
    recipe = Recipe(learner="snail", **changes)
    assert make_learner(recipe, (1, 28, 28)).length == length
    chosen = replace(recipe, options={"length": 9})
    assert make_learner(chosen, (1, 28, 28)).length == 9


@pytest.mark.parametrize(("ways", "train_ways"), [(5, None), (2, 5)])
def test_outputs_must_be_enough_for_every_task(ways, train_ways):
    recipe = Recipe(learner="mann", ways=ways, train_ways=train_ways, options={"outputs": 4})
    with pytest.raises(ValueError, match=r"outputs of mann: must be at least 5.*found 4"):
        make_learner(recipe, (1, 28, 28))
    assert make_learner(replace(recipe, options={"outputs": 7}), (1, 28, 28)).outputs == 7


def test_strict_reaches_the_data(short, tmp_path):
    with pytest.raises(ValueError, match="arrays does not take strict"):
        prepare(replace(short, strict=True))
    recipe = Recipe(data="folder", root=str(tmp_path), strict=True, size=16)
    for kind in "abcdef":
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="broken"):
        prepare(recipe)


def test_the_learner_is_on_the_device(short, monkeypatch):
    # "meta" takes the place of a GPU, which this machine may not have.
    monkeypatch.setattr(
        "quickstudy.interfaces.runs.assemble.choose_device", lambda name: torch.device("meta")
    )
    assert {p.device.type for p in prepare(short).learner.parameters()} == {"meta"}


def test_a_device_that_does_not_exist_is_refused(short):
    with pytest.raises(ValueError, match="CUDA GPU"):
        prepare(replace(short, device="cuda:63"))


def test_sources_can_be_made_from_an_incomplete_recipe(short):
    parts = prepare(short)
    assert make_sources(short, parts.data, parts.learner).train.ways == (8, 8)


@pytest.mark.parametrize(("options", "shuffled"), [({}, False), ({"reads": 2}, True)])
def test_learners_of_sequences_get_rows_in_random_order(short, options, shuffled):
    parts = prepare(replace(short, learner="matching", options=options))
    assert {s.shuffled for s in vars(parts.sources).values()} == {shuffled}


def test_only_training_tasks_are_augmented_as_the_recipe_says(tmp_path):
    path = tmp_path / "pictures.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 16, 16)).astype(np.uint8)
    np.savez(path, X=pixels, y=np.repeat(np.arange(12), 10))
    recipe = Recipe(data="arrays", root=str(path), ways=2, queries=3, train_queries=3, channels=4,
                    augment="crop+flip+colour", device="cpu")  # fmt: skip
    sources = prepare(recipe).sources
    assert sources.train.augment == (augmentation("crop+flip+colour"),) * 2
    assert sources.val.augment == sources.test.augment == (None, None)


def test_relation_compares_feature_maps_of_images_and_otherwise_vectors(short):
    images = make_learner(Recipe(learner="relation", channels=8), (1, 28, 28))
    assert images.backbone.feature_shape == (8, 7, 7)
    assert prepare(replace(short, learner="relation")).learner.backbone.features == 128


def test_a_run_on_texts_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="clinc150 has texts, but runs are on pictures or arrays"):
        load_data(Recipe(data="clinc150", root=str(tmp_path)))


def test_steps_of_a_learner_without_anything_to_train_are_refused_with_its_reason(short):
    with pytest.raises(ValueError, match="nothing to train, since it learns every task of a run"):
        prepare(replace(short, learner="single_task"))
    assert prepare(replace(short, learner="single_task", steps=None)).recipe.steps == 0
