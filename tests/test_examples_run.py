"""Examples and recipes run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import read_recipe, read_recipe_file

ROOT = Path(__file__).parents[1]


def test_quickstart():
    result = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))["main"](steps=15, tasks=20)
    assert result.mean > 0.5, "far above chance (0.2) after a few steps"


def test_a_learner_of_ones_own_keeps_the_contract():
    kept = runpy.run_path(str(ROOT / "examples" / "your_own_learner.py"))["main"]()
    assert len(kept) == 10


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_build(path):
    recipe = read_recipe(read_recipe_file(path)).complete()
    learner = make_learner(recipe, (1, 28, 28))
    assert path.stem.endswith(recipe.learner)
    assert all(hasattr(learner, option) for option in recipe.options)
