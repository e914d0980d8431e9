"""`quickstudy tune`: from a recipe to a better one that `quickstudy run` takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs import tuning
from quickstudy.interfaces.runs.recipe import read_recipe, read_recipe_file

pytest.importorskip("optuna")

RECIPE = """
learner: prototypical
options: {scale: 2.0}
channels: 4
train_ways: 5
queries: 3
steps: 4
validate_every: 2
threads: 1
seed: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning, "VALIDATION_TASKS", 4)
    (tmp_path / "proto.yaml").write_text(RECIPE)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["tune", *words])


def test_a_recipe_is_tuned_joined_and_run(folder: Path) -> None:
    found = call("proto.yaml", "--trials", "3", "--tasks", "4", "--keep", "options.distance")
    assert found.exit_code == 0, found.output
    assert "3 trials: " in found.output
    assert "trial 2 of 3" in found.output
    assert "proto.best.yaml" in found.output
    best = read_recipe_file(folder / "proto.best.yaml")
    again = call("proto.yaml", "--trials", "3", "--tasks", "4", "--keep", "options.distance",
                 "--json")  # fmt: skip
    assert again.exit_code == 0, again.output
    values = json.loads(again.stdout)
    place = values["best"]
    assert values["trials"][0]["settings"] == {"rate": 1e-3, "options.scale": 2.0}
    assert values["recipe"] == "proto.best.yaml"
    settings = values["trials"][place]["settings"]
    assert best["options"]["scale"] == settings["options.scale"]
    assert best.get("rate", 1e-3) == settings["rate"]
    assert (best["validate_every"], best["seed"]) == (2, 3)
    assert read_recipe_file(folder / "proto.best.yaml") == best
    ran = CliRunner().invoke(main, ["run", "--config", "proto.best.yaml", "--test-tasks", "4",
                                    "-o", "out"])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert json.loads((folder / "out" / "recipe.json").read_text())["options"] == best["options"]
    other = call("proto.yaml", "--trials", "3", "--tasks", "4")
    assert "holds trials of another problem" in other.output
    (folder / "proto.yaml").write_text(RECIPE.replace("steps: 4", "steps: 6"))
    other = call("proto.yaml", "--trials", "3", "--tasks", "4", "--keep", "options.distance")
    assert "steps is 4 there, and 6 here" in other.output


def test_explaining_writes_nothing(folder: Path) -> None:
    found = call("proto.yaml", "--explain")
    assert found.exit_code == 0, found.output
    assert "options.scale: 0.1 to 10 (logarithmic)" in found.output
    assert "never on test tasks" in found.output
    assert "2 validations" in found.output
    assert [path.name for path in folder.iterdir()] == ["proto.yaml"]


def test_ctrl_c_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quickstudy.selection.tuning.problem.fit", interrupted)
    monkeypatch.setattr(sys, "argv", ["quickstudy", "tune", "proto.yaml", "--trials", "3"])
    found = call("proto.yaml", "--trials", "3")
    assert found.exit_code == 130
    assert "kept in proto.trials. Go on with: quickstudy tune proto.yaml --trials 3" in found.output
    assert not (folder / "proto.best.yaml").exists()


def test_other_files_are_not_overwritten(folder: Path) -> None:
    (folder / "proto.best.yaml").write_text("mine")
    found = call("proto.yaml", "--trials", "1")
    assert found.exit_code == 1
    assert "exists already, and is not of `quickstudy tune`" in found.output
    assert (folder / "proto.best.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("", ("--trials", "0"), "--trials must be at least 1; found 0"),
        ("folds: 3\ndata: folder\nroot: .\nlearner: maml\nvalidate_every: null", (), "Leave folds"),
        ("", ("--keep", "scale"), "options.scale"),
        ("", ("--keep", "rate", "--keep", "options.scale", "--keep", "options.distance"),
         "nothing is left to try"),
        ("", ("--storage", "redis://here"), "unknown kind of database, redis"),
        ("", ("--storage", "proto.yaml"), "is no record of trials, or a damaged one: line 1"),
        ("learner: protypical", (), "prototypical"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_told(
    folder: Path, recipe: str, words: tuple[str, ...], message: str
) -> None:
    values = {**yaml.safe_load(RECIPE), **(yaml.safe_load(recipe) or {})}
    if "folds" in recipe:
        values = yaml.safe_load(recipe)
    (folder / "proto.yaml").write_text(yaml.safe_dump(values))
    found = call("proto.yaml", *words)
    assert found.exit_code == 1
    assert message in found.output


def test_a_recipe_that_leaves_the_learner_open_is_refused(folder: Path) -> None:
    (folder / "proto.yaml").write_text("data: folder\nroot: .\n")
    assert "leaves backbone and learner to be chosen" in call("proto.yaml").output


def test_without_optuna_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = call("proto.yaml")
    assert found.exit_code == 1
    assert "pip install 'quickstudy[tune]'" in found.output


def test_the_values_of_the_recipe_are_kept(folder: Path) -> None:
    begun = tuning.begin_tuning(read_recipe_file(folder / "proto.yaml"), progress=False)
    made = begun.problem.make({"options.scale": 0.5}, 7)
    assert made.scale == 0.5
    assert begun.parts.trained.scale == 2.0
    assert read_recipe(begun.values).options == {"scale": 2.0}
