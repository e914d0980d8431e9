"""Recipes: values refused before anything is loaded, and defaults that are filled in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quickstudy.backbones import norms
from quickstudy.interfaces.runs import recipe as module
from quickstudy.interfaces.runs.recipe import Recipe, merge, read_options, read_recipe


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
        ({"steps": 0}, "steps: must be at least 1; found 0"),
        ({"threads": -1}, "threads: must be at least 1"),
        ({"test_tasks": 1}, "test_tasks: must be at least 2"),
        ({"patience": 0}, "patience: must be at least 1"),
        ({"seed": 2**64}, "seed: must be less than"),
        ({"rate": -1.0}, "rate: must be a positive number"),
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


def test_the_data_limit_only_the_default_of_train_ways():
    assert Recipe().complete(train_classes=12).train_ways == 12
    assert Recipe(train_ways=20).complete(train_classes=12).train_ways == 20
    assert Recipe(learner="maml").complete(train_classes=12).train_ways == 5


def test_single_options_override_the_options_of_a_file():
    file = {"ways": 2, "shots": 1, "options": {"steps": 2, "rate": 0.1}}
    merged = merge(file, {"shots": 5}, read_options(["rate=0.05", "update=adam"]))
    options = {"steps": 2, "rate": 0.05, "update": "adam"}
    assert merged == {"ways": 2, "shots": 5, "options": options}
    for wrong in ("steps", "steps=["):
        with pytest.raises(ValueError, match="--option"):
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
