"""Examples and recipes run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import read_recipe, read_recipe_file

ROOT = Path(__file__).parents[1]


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def test_quickstart():
    """Of ten seeds, the worst accuracy was 0.73."""
    result = example("quickstart")["main"](steps=15, tasks=20)
    assert result.mean > 0.5, "far above chance (0.2) after a few steps"


def test_saying_not_sure():
    """After a few steps, of eight seeds: 0.27 to 0.41 right, at most 0.02 wrong, strangers named in
    0.11 to 0.23."""
    right, wrong, unnoticed = example("not_sure")["main"](steps=30, tasks=30)
    assert right > 0.1
    assert wrong < right / 3
    assert unnoticed < right


def test_the_custom_learner_keeps_the_contract_and_learns():
    """Of ten seeds, the worst accuracy was 0.69."""
    kept, result = example("your_own_learner")["main"](steps=10, tasks=20)
    assert len(kept) == 17
    assert result.mean > 0.5, "far above chance (0.2) after a few steps"


def test_the_custom_answer():
    """Of ten seeds, distances were at least 0.93 before and at most 0.86 after."""
    before, after = example("your_own_answer")["main"](steps=150, tasks=40)
    assert after.metric == "distance"
    assert after.mean < 0.9 < before.mean, "lower is better"


def test_three_kinds_of_tasks_in_a_step():
    """Of ten seeds, the worst accuracy was 0.61."""
    result = example("mixed_tasks")["main"](steps=20, tasks=40)
    assert {row.name for row in result.rows} == {"rings", "lengths", "questions"}
    assert result.row("rings").mean > 0.5, "of three rings"


def test_an_in_context_learner_on_new_domains():
    """Two steps teach it nothing; that it learns, tests/learners and benchmarks show."""
    result = example("across_domains")["main"](steps=2, tasks=4)
    assert {row.name for row in result.rows} <= {"HEBREW", "ARMENIAN"}
    assert sum(row.tasks for row in result.rows) == 4


def test_many_tasks_at_once():
    """That sharing helps is for benchmarks to show."""
    shared, alone = example("multitask")["main"](steps=3)
    assert [row.name for row in shared.rows] == [row.name for row in alone.rows]
    assert len(shared.rows) == 16


def test_which_learner():
    """That training helps is for benchmarks to show; two steps teach nothing."""
    found = example("compare")["main"](steps=2, tasks=4).main
    names = ["prototypical", "ridge", "first-order MAML"]
    assert [entry.name for entry in found.learners] == names
    assert not found.failures
    assert len(found.baselines) == 4


def test_a_learner_that_acts():
    before, after = example("bandit")["main"](steps=30, tasks=40)
    assert before.mean < after.mean < 0.9, "0.9 is the return of the best arm"


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_build(path):
    recipe = read_recipe(read_recipe_file(path)).complete()
    learner = make_learner(recipe, (1, 28, 28))
    assert path.stem.endswith(recipe.learner)
    assert all(hasattr(learner, option) for option in recipe.options)
