"""Recipes: values refused before anything is loaded, and defaults that are filled in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quickstudy.backbones import norms
from quickstudy.interfaces.runs import recipe as module
from quickstudy.interfaces.runs.recipe import Limits, Recipe, merge, read_options, read_recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shotss": 1}, "Did you mean 'shots'"),
        ({3: 1}, "'3' is unknown"),
        ({"ways": "five"}, "ways must be int"),
        ({"rate": "fast"}, "rate must be float"),
        ({"rate": float("nan")}, "rate must be finite"),
        ({"rate": True}, "rate must be float"),
        ({"rotations": 3}, "rotations must be bool"),
        ({"ways": True}, "ways must be int"),
        ({"options": [1]}, "options must be dict"),
        ({"norm": "grop"}, "Did you mean 'group'"),
        ({"data": "omniglot", "split": "vinyal"}, "Did you mean 'vinyals'"),
        ({"ways": 1}, "ways: must be at least 2"),
        ({"steps": -1}, "steps: must be at least 0; found -1"),
        ({"threads": -1}, "threads: must be at least 1"),
        ({"test_tasks": 1}, "test_tasks: must be at least 2"),
        ({"patience": 0}, "patience: must be at least 1"),
        ({"seed": 2**64}, "seed: must be less than"),
        ({"rate": -1.0}, "rate: must be a positive number"),
        ({"clip": 0.0}, "clip: must be a positive number"),
        ({"augment": "crop+flop"}, "augment: 'flop' is unknown. Did you mean 'flip'"),
        ({"augment": "crop+crop"}, "crop is given twice"),
        ({"rate": 10**400}, "rate must be float"),
        ({"device": "gpu"}, "cpu, cuda or cuda:NUMBER"),
    ],
)
def test_wrong_recipes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(values)


def test_norms_equal_the_norms_of_the_backbones():
    assert set(norms.NORMS) == set(module.NORMS)


def test_a_wrong_recipe_is_refused_without_importing_torch():
    code = (
        "import sys; from quickstudy.interfaces.cli import main\n"
        "try: main(['run', '--norm', 'grop'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_recipe_survives_json():
    recipe = Recipe(learner="maml", options={"steps": 5}, size=32).complete()
    assert read_recipe(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_numbers_that_yaml_reads_as_text_or_integer():
    assert read_recipe({"rate": "1e-3"}).rate == 1e-3  # YAML 1.1 reads it as a text
    assert read_recipe({"rate": 1}).rate == 1.0


def test_a_complete_recipe_does_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    complete = Recipe(root="data").complete()
    assert complete.root == str(tmp_path / "data")
    assert (complete.steps, complete.train_ways, complete.validate_every) == (800, 20, 200)
    assert Recipe(root="~/data").complete().root == str(Path.home() / "data")


def test_the_data_limit_defaults_but_no_given_value():
    few = Limits(train_classes=12, test_classes=3, train_rows=4, rows=8)
    tasks = ("ways", "queries", "train_ways", "train_queries")

    def of(**given: Any) -> tuple[int, ...]:
        complete = Recipe(**given).complete(few)
        return tuple(getattr(complete, name) for name in tasks)

    assert of() == (3, 7, 12, 3), "one of the rows of each class is the shot"
    assert of(shots=3) == (3, 5, 12, 1)
    assert of(learner="maml") == (3, 7, 3, 3)
    assert of(ways=4, queries=9, train_ways=20, train_queries=6) == (4, 9, 20, 6)
    complete = Recipe().complete()
    assert tuple(getattr(complete, name) for name in tasks) == (5, 15, 20, 5)
    assert Recipe().complete(few).complete() == Recipe().complete(few)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fractions": [0.5, 0.5]}, "three positive numbers"),
        ({"fractions": [0.8, 0.1, 0.2]}, "add up to 1"),
        ({"fractions": [1.2, -0.1, -0.1]}, "three positive numbers"),
        ({"fractions": [float("nan"), 0.5, 0.5]}, "must be a list of numbers"),
        ({"fractions": "0.6,0.2,0.2"}, "must be a list of numbers"),
        ({"fractions": 0.6}, "must be a list of numbers"),
        ({"folds": 1}, "folds: must be at least 2"),
        ({"fold": 1}, "Give folds too"),
        ({"folds": 3, "fold": 4}, "at most folds, 3; found 4"),
        ({"folds": 3, "fractions": [0.6, 0.2, 0.2]}, "no other split and no validation"),
        ({"folds": 3, "patience": 2}, "found patience"),
        ({"split_seed": -1}, "split_seed: must be at least 0"),
    ],
)
def test_a_wrong_split_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(values)


def test_a_split_survives_json():
    for recipe in (
        Recipe(data="arrays", folds=3).complete(),
        Recipe(data="arrays", folds=3, fold=2).complete(),
        Recipe(data="arrays", fractions=(0.5, 0.25, 0.25), split_seed=3).complete(),
    ):
        assert read_recipe(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_single_options_override_the_options_of_a_file():
    file = {"ways": 2, "shots": 1, "options": {"steps": 2, "rate": 0.1}}
    merged = merge(file, {"shots": 5}, read_options(["rate=0.05", "update=adam"]))
    options = {"steps": 2, "rate": 0.05, "update": "adam"}
    assert merged == {"ways": 2, "shots": 5, "options": options}
    for wrong in ("steps", "steps=["):
        with pytest.raises(ValueError, match="--set"):
            read_options([wrong])


@pytest.mark.parametrize(
    ("values", "optimiser", "rate"),
    [
        ({}, "adam", 1e-3),
        ({"learner": "maml"}, "adam", 2e-3),
        ({"learner": "reptile"}, "sgd", 1.0),
        (
            {"learner": "reptile", "optimiser": "adam"},
            "adam",
            1e-3,
        ),  # the rate in its paper is for SGD
        ({"learner": "reptile", "optimiser": "adam", "rate": 0.5}, "adam", 0.5),
    ],
)
def test_the_default_rate_depends_on_the_optimiser(values, optimiser, rate):
    recipe = Recipe(**values).complete()
    assert (recipe.optimiser, recipe.rate) == (optimiser, rate)
