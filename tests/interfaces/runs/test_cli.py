"""The command line on real files, with wrong arguments, and called repeatedly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from quickstudy.compute.memory import TaskTooLarge
from quickstudy.contract.laws import BrokenLaw
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.folder import Run
from quickstudy.training.fit import NonFiniteLoss

FAST = ["--channels", "8", "--steps", "12", "--tasks-per-step", "1", "--train-ways", "5",
        "--test-tasks", "20", "--threads", "1"]  # fmt: skip


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Twelve classes of twelve small images, of several sizes and modes."""
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
    out = tmp_path_factory.mktemp("runs") / "exp[/x]first"  # rich must not read markup in the name
    done = call("run", "--data", "folder", "--root", photographs, "--size", "32", "--ways", "2",
                "--queries", "5", "--train-queries", "3", "--out", out, *FAST,
                "--train-ways", "4")  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


def test_a_run_writes_all_its_files(finished):
    names = {p.name for p in finished.iterdir()}
    assert names >= {"recipe.json", "metrics.jsonl", "learner.safetensors", "evaluation.json",
                     "report.html"}  # fmt: skip
    evaluation = json.loads((finished / "evaluation.json").read_text())
    (row,) = evaluation["rows"]
    assert (row["score"], row["first"], evaluation["tasks"]) == ("accuracy", True, 20)
    assert len(row["values"]) == 20
    assert row["mean"] == pytest.approx(np.mean(row["values"]), abs=1e-5)
    page = (finished / "report.html").read_text()
    assert "inductive" in page
    assert re.search("<h1>Prototypical Networks: kind .* more classes</h1>", page)
    assert re.search("The learner is|beside baselines", page)
    assert (finished / "origin.json").is_file()
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
    assert after["rows"] == before["rows"]
    refused = call("run", "--resume", finished, "--ways", "3")
    assert "give no other options" in refused.output


def test_a_finished_run_is_trained_further(points, tmp_path):
    path = tmp_path / "run"
    begun = call("run", "--data", "arrays", "--root", points, "--backbone", "mlp", "--ways", "2",
                 "--queries", "3", "--train-queries", "3", "--steps", "2", "--test-tasks", "2",
                 "--clip", "0.5", "--device", "cpu", "--out", path)  # fmt: skip
    assert begun.exit_code == 0, begun.output
    further = call("run", "--resume", path, "--steps", "4")
    assert further.exit_code == 0, further.output
    recipe = Run.open(path).recipe
    assert (recipe.steps, recipe.clip) == (4, 0.5)
    page = (path / "report.html").read_text()
    assert "training was to end at 2 steps, then at 4" in page
    refused = call("run", "--resume", path, "--steps", "5", "--ways", "3")
    assert "give no other options" in refused.output


def test_evaluate_again(finished):
    own = call("evaluate", finished, "--tasks", "20", "--json")
    assert own.exit_code == 0, own.output
    stored = json.loads((finished / "evaluation.json").read_text())
    assert json.loads(own.output)["rows"] == stored["rows"]
    other = call("evaluate", finished, "--tasks", "10", "--shots", "3")
    assert "accuracy" in other.output
    for remark in (
        "Prototypical Networks: kind",
        "than chance",
        "nearest mean of the inputs",
        "not other classes",
        "single tasks",
    ):
        assert remark in other.output
    fewer = json.loads(
        call("evaluate", finished, "--tasks", "2", "--queries", "1", "--json").stdout
    )
    shares = np.array(fewer["rows"][0]["values"]) * Run.open(finished).recipe.ways
    np.testing.assert_allclose(shares, shares.round(), atol=1e-4)  # one query of each class
    without = call("evaluate", finished, "--tasks", "2", "--no-baselines")
    assert "than chance" not in without.output
    for words, message in (
        (["--ways", "40"], "test classes: episodes: 40 ways asked, but the split has"),
        (["--ways", "0"], "ways: must be at least 2; found 0"),
        (["--shots", "0"], "shots: must be at least 1; found 0"),
        (["--tasks", "1"], "--tasks must be at least 2, for an interval; found 1"),
    ):
        refused = call("evaluate", finished, *words)
        assert refused.exit_code == 1
        assert message in refused.output


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
    assert "distinguishes 3 classes: kind 0, kind 1, kind 2" in done.output
    assert "exists already" in call("adapt", finished, support, "-o", out).output

    queries = [photographs / f"kind {k}" / f"{i}.png" for k in range(3) for i in (7, 8, 9)]
    rows = json.loads(call("predict", out, *queries, "--json").stdout)["predictions"]
    assert [row["file"] for row in rows] == [str(q) for q in queries]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["probability"] == max(row["probabilities"].values())
    right = sum(row["class"] == Path(row["file"]).parent.name for row in rows)
    assert right >= 7, f"{right} of 9: these classes differ by colour alone and are easy"
    table = call("predict", out, photographs / "kind 0")
    assert "kind 0" in table.output
    assert "protocol inductive" in table.output

    (tmp_path / "note.txt").write_text("no picture")
    mixed = call("predict", out, queries[0], tmp_path / "note.txt")
    assert mixed.exit_code == 3, "done, but an input was left out"
    assert "left out: " in mixed.output
    assert call("predict", out, queries[0], tmp_path / "note.txt", "--strict").exit_code == 1
    assert "is a readable image" in call("predict", out, tmp_path / "note.txt").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runn"], "Did you mean 'run'"),
        (["run", "--lerner", "maml"], "--learner"),
        (["run", "--learner", "protoypical"], "Did you mean 'prototypical'"),
        (["run", "--data", "omnigloot"], "omniglot"),
        (["run", "--backbone", "conv5"], "Did you mean 'conv4'"),
        (["run", "--config", "nowhere.yaml"], "there is no such recipe"),
        (["run", "--ways", "0"], "ways: must be at least 2"),
        (["run", "--norm", "grop"], "Did you mean 'group'"),
        (["run", "--steps", "-1"], "steps: must be at least 0"),
        (["run", "--workers", "0"], "workers: must be at least 1"),
        (["run", "--rate", "nan"], "rate must be finite"),
        (["run", "--optimiser", "rmsprop"], "Valid names: adam, sgd"),
        (["run", "--test-tasks", "1"], "test_tasks: must be at least 2"),
        (["run", "--set", "distance=cosin"], "Did you mean 'cosine'"),
        (["run", "--set", "scale=abc"], "must be float"),
        (["run", "--set", "scale=["], "is not a YAML value"),
        (["run", "--device", "cuda:63"], "CUDA GPU"),
        (["run", "--set", "steps"], "must be NAME=VALUE"),
        (["run", "--resume", "nowhere"], "holds no run"),
        (["evaluate", "nowhere"], "holds no run"),
        (["adapt", "nowhere", "nothing"], "neither the folder of a run nor a pretrained"),
        (["predict", "nowhere", "x.png"], "there is no such file"),
    ],
)
def test_user_errors_show_a_message_without_traceback(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize("more", [[], ["--explain"]])
def test_compiling_without_a_compiler_shows_a_message(photographs, tmp_path, monkeypatch, more):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.chdir(tmp_path)
    result = call("run", "--data", "folder", "--root", photographs, "--size", "32", "--ways", "2",
                  "--queries", "5", "--train-queries", "3", "--compile", *FAST, "--train-ways", "4",
                  *more)  # fmt: skip
    assert result.exit_code == 1
    assert "no-such-compiler is not found" in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_corrupt_files_show_a_message(finished, tmp_path):
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


def test_explaining_trains_nothing_and_writes_nothing(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", "--data", "folder", "--root", photographs, "--size", "32", "--ways", "2",
             "--queries", "5", "--workers", "2", "--tasks-per-step", "3"]  # fmt: skip
    done = call(*words, "--explain", "--out", "here")
    assert done.exit_code == 0, done.output
    assert "mapping    loop: workers were asked for" in done.output
    assert "tasks      2 at a time, of 3 a step" in done.output
    assert "workers    2\n" in done.output
    assert not list(tmp_path.iterdir())
    refused = call("run", "--resume", "here", "--explain")
    assert "give no other options" in refused.output


def test_help_imports_no_heavy_package():
    """Importing torch takes seconds, so a command that only prints help must not do it."""
    code = (
        "import sys; from quickstudy.interfaces.cli import main; "
        "main(['--help'], standalone_mode=False); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'rich', 'PIL', 'scipy', 'sklearn', 'yaml'}; "
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Start with `quickstudy run`" in done.stdout
    assert done.stdout.endswith("imported: []\n")


def test_a_recipe_file_is_read_and_options_override_it(tmp_path, photographs):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: folder\nroot: {photographs}\nsize: 32\nlearner: maml\nnorm: support\nways: 2\n"
        "queries: 3\ntrain_queries: 2\noptions: {steps: 2, rate: 0.1, adapts: ['head.*']}\n"
    )
    out = tmp_path / "run"
    done = call("run", "--config", recipe, "--shots", 2, "--out", out, "--set", "steps=1",
                "--set", "rate=0.05", *FAST[:-4], "--test-tasks", 5, "--train-ways", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    made = Run.open(out)
    assert made.recipe.shots == 2
    assert made.recipe.options == {"steps": 1, "rate": 0.05, "adapts": ["head.*"]}
    learner, info = made.learner()
    assert (learner.steps, learner.adapts) == (1, ("head.*",))
    assert info["shape"] == [3, 32, 32]
    wrong = call("run", "--learner", "maml", "--set", "stps=1", "--data", "folder", "--root",
                 photographs, "--ways", "2", "--queries", "3", "--out", tmp_path / "x")  # fmt: skip
    assert "Did you mean 'steps'" in wrong.output


def test_rotations_of_a_recipe_file_can_be_switched_off(tmp_path, photographs):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: folder\nroot: {photographs}\nrotations: true\n")
    assert "does not take rotations" in call("run", "--config", recipe).output
    off = call("run", "--config", recipe, "--no-rotations", "--ways", "9999", "--out", "x")
    assert "9999 ways were asked" in off.output


def test_a_bug_shows_its_traceback_and_a_user_error_does_not(monkeypatch):
    def raising(error):
        monkeypatch.setattr(
            "quickstudy.interfaces.runs.folder.Run.open", lambda path: _raise(error)
        )
        return call("evaluate", "run")

    for error in (RuntimeError("bug"), AssertionError("bug"), ZeroDivisionError("bug")):
        assert raising(error).exception is error
    for error in (
        ValueError("message"),
        NonFiniteLoss("message"),
        BrokenLaw("message"),
        TaskTooLarge("message"),
    ):
        assert "Error: message" in raising(error).output


def _raise(error):
    raise error


@pytest.mark.filterwarnings("default::UserWarning")
def test_transductive_predictions_use_all_files_at_once(photographs, tmp_path):
    out, predictor = tmp_path / "run", tmp_path / "p.safetensors"
    done = call("run", "--data", "folder", "--root", photographs, "--size", "16", "--ways", "2",
                "--norm", "batch", "--queries", "5", "--out", out, *FAST)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "is transductive (norm='batch')" in call("adapt", out, photographs, "-o",
                                                    predictor).output  # fmt: skip
    forwards = json.loads(call("predict", predictor, photographs, "--json").stdout)
    assert forwards["protocol"] == "transductive"
    backwards = sorted(photographs.rglob("*.png"), reverse=True)
    assert len(backwards) > 64, "more files than an inductive learner predicts at once"
    reversed_order = json.loads(call("predict", predictor, *backwards, "--json").stdout)

    def probabilities(result):
        rows = sorted(result["predictions"], key=lambda row: row["file"])
        return [list(row["probabilities"].values()) for row in rows]

    np.testing.assert_allclose(probabilities(forwards), probabilities(reversed_order), atol=1e-4)
