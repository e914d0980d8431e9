"""The command line as a user meets it: on real files, with wrong arguments, and a second time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from quickstudy.cli import main
from quickstudy.runs.execute import Run
from quickstudy.runs.recipe import Recipe, read_recipe

FAST = ["--channels", "8", "--steps", "12", "--tasks-per-step", "1", "--train-ways", "5",
        "--test-tasks", "20", "--threads", "1"]  # fmt: skip


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Twelve classes of twelve small pictures; odd sizes and modes as users have them."""
    top = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for c in range(12):
        folder = top / f"kind {c}"
        folder.mkdir()
        base = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for i in range(12):
            pixels = np.clip(base + rng.integers(-30, 30, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((40 + i, 40), Image.Resampling.NEAREST)
            image.convert("L" if i == 3 else "RGB").save(folder / f"{i}.png")
    return top


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    done = call("run", "--data", "folder", "--root", photographs, "--size", "32", "--ways", "2",
                "--queries", "5", "--train-queries", "3", "--out", out, *FAST,
                "--train-ways", "4")  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


def test_a_run_leaves_all_it_promises(finished):
    names = {p.name for p in finished.iterdir()}
    assert names >= {"recipe.json", "metrics.jsonl", "learner.safetensors", "evaluation.json",
                     "report.html"}  # fmt: skip
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert len(evaluation["scores"]) == 20
    assert evaluation["mean"] == pytest.approx(np.mean(evaluation["scores"]), abs=1e-5)
    page = (finished / "report.html").read_text()
    assert "inductive" in page
    assert evaluation["fingerprint"] in page
    assert "kind " in page
    recipe = Run.open(finished).recipe
    assert recipe.validate_every == 3, "defaults are recorded"


def test_a_second_run_overwrites_nothing(finished, photographs):
    before = {p: p.read_bytes() for p in finished.iterdir()}
    again = call("run", "--data", "folder", "--root", photographs, "--out", finished)
    assert again.exit_code == 1
    assert "overwrites nothing" in again.output
    assert {p: p.read_bytes() for p in finished.iterdir()} == before


def test_resuming_a_finished_run_gives_the_same_numbers(finished):
    before = json.loads((finished / "evaluation.json").read_text())
    done = call("run", "--resume", finished)
    assert done.exit_code == 0, done.output
    after = json.loads((finished / "evaluation.json").read_text())
    assert after["scores"] == before["scores"]
    refused = call("run", "--resume", finished, "--ways", "3")
    assert "give no other options" in refused.output


def test_evaluate_again(finished):
    own = call("evaluate", finished, "--tasks", "20", "--json")
    assert own.exit_code == 0, own.output
    stored = json.loads((finished / "evaluation.json").read_text())
    assert json.loads(own.output)["scores"] == stored["scores"]
    other = call("evaluate", finished, "--tasks", "10", "--shots", "3")
    assert "accuracy" in other.output
    assert "too many" not in call("evaluate", finished, "--ways", "40").output


@pytest.mark.filterwarnings("default::UserWarning")
def test_adapt_and_predict(finished, photographs, tmp_path):
    support = tmp_path / "support"
    for kind in ("kind 0", "kind 1", "kind 2"):
        (support / kind).mkdir(parents=True)
        for i in range(5):
            (support / kind / f"{i}.png").write_bytes(
                (photographs / kind / f"{i}.png").read_bytes()
            )
    out = tmp_path / "three.safetensors"
    done = call("adapt", finished, support, "-o", out)
    assert done.exit_code == 0, done.output
    assert "3 classes apart: kind 0, kind 1, kind 2" in done.output
    assert "exists already" in call("adapt", finished, support, "-o", out).output

    queries = [photographs / f"kind {k}" / f"{i}.png" for k in range(3) for i in (7, 8, 9)]
    told = json.loads(call("predict", out, *queries, "--json").output)["predictions"]
    assert [row["file"] for row in told] == [str(q) for q in queries]
    for row in told:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["probability"] == max(row["probabilities"].values())
    right = sum(row["class"] == Path(row["file"]).parent.name for row in told)
    assert right >= 7, f"{right} of 9: these classes differ by colour alone and are easy"
    table = call("predict", out, photographs / "kind 0")
    assert "kind 0" in table.output

    (tmp_path / "note.txt").write_text("no picture")
    mixed = call("predict", out, queries[0], tmp_path / "note.txt")
    assert mixed.exit_code == 0
    assert "1 files were left out" in mixed.output
    assert call("predict", out, queries[0], tmp_path / "note.txt", "--strict").exit_code == 1
    assert "none of the 1 files" in call("predict", out, tmp_path / "note.txt").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runn"], "Did you mean 'run'"),
        (["run", "--lerner", "maml"], "--learner"),
        (["run", "--learner", "protoypical"], "Did you mean 'prototypical'"),
        (["run", "--data", "omnigloot"], "omniglot"),
        (["run", "--backbone", "conv5"], "Did you mean 'conv4'"),
        (["run", "--config", "nowhere.yaml"], "there is no such recipe"),
        (["run", "--ways", "0"], "ways: must be positive"),
        (["run", "-o", "steps"], "must be NAME=VALUE"),
        (["run", "--resume", "nowhere"], "holds no run"),
        (["evaluate", "nowhere"], "holds no run"),
        (["adapt", "nowhere", "nothing"], "holds no run"),
        (["predict", "nowhere", "x.png"], "there is no such file"),
    ],
)
def test_mistakes_are_told_plainly(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_corrupt_files_are_told_plainly(finished, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nonsense")
    assert "not a file that quickstudy wrote" in call("predict", bad, "x.png").output
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text('{"ways": "five"}')
    assert "ways must be int; found 'five'" in call("evaluate", run).output
    (run / "recipe.json").write_text((finished / "recipe.json").read_text())
    assert "training has not finished" in call("evaluate", run).output
    (tmp_path / "empty").mkdir()
    assert call("adapt", finished, tmp_path / "empty").exit_code == 1


def test_a_recipe_file_is_read_and_options_win(tmp_path, photographs):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: folder\nroot: {photographs}\nsize: 32\nlearner: maml\nnorm: support\nways: 2\n"
        "queries: 3\ntrain_queries: 2\noptions: {steps: 2, rate: 0.1, adapts: ['head.*']}\n"
    )
    out = tmp_path / "run"
    done = call("run", "--config", recipe, "--shots", 2, "--out", out, "-o", "steps=1",
                "-o", "rate=0.05", *FAST[:-4], "--test-tasks", 5, "--train-ways", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    made = Run.open(out)
    assert made.recipe.shots == 2
    assert made.recipe.options == {"steps": 1, "rate": 0.05}
    learner, info = made.learner()
    assert learner.steps == 1
    assert info["shape"] == [3, 32, 32]
    wrong = call("run", "--learner", "maml", "-o", "stps=1", "--data", "folder", "--root",
                 photographs, "--ways", "2", "--queries", "3", "--out", tmp_path / "x")  # fmt: skip
    assert "Did you mean 'steps'" in wrong.output


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shotss": 1}, "Did you mean 'shots'"),
        ({"ways": "five"}, "ways must be int"),
        ({"rate": "fast"}, "rate must be float"),
        ({"rotations": 3}, "rotations must be bool"),
        ({"ways": True}, "ways must be int"),
        ({"options": [1]}, "options must be dict"),
    ],
)
def test_wrong_recipes_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        read_recipe(values)


def test_a_recipe_survives_json():
    recipe = Recipe(learner="maml", options={"steps": 5}, size=32).complete()
    assert read_recipe(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_first_weights_depend_on_the_seed_alone():
    from quickstudy.runs.assemble import make_learner

    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # the global state moves, and must not matter
        return make_learner(Recipe(seed=seed), (1, 28, 28)).backbone.blocks[0].conv.weight

    assert weights(0).equal(weights(0))
    assert not weights(0).equal(weights(1))
