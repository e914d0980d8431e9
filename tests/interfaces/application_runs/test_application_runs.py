"""Runs of an application from the command line: trained, killed, resumed, adapted, compared."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from toy_application import toy  # noqa: F401

import quickstudy as qs
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.application_runs import execute as runs
from quickstudy.interfaces.application_runs.folder import ApplicationRun
from quickstudy.interfaces.application_runs.recipe import read_application_recipe
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.folder import Run
from quickstudy.training import fit as trainer

pytestmark = pytest.mark.usefixtures("toy")

FAST = ("--threads", "1", "--device", "cpu")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(*words: str | Path) -> str:
    """The error of a command, on one line."""
    found = call(*words)
    assert found.exit_code == 1, found.output
    assert "Traceback" not in found.output
    return " ".join(found.output.split())


def done(*words: str | Path) -> str:
    found = call(*words)
    assert found.exit_code == 0, found.output
    return found.output


def weights(run: Path) -> dict[str, torch.Tensor]:
    return ApplicationRun.open(run).learner()[0].state_dict()


@pytest.fixture(scope="module")
def first(toy, tmp_path_factory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "first"
    done("run", "--data", "waves", "--out", out, *FAST)
    return out


@pytest.fixture
def finished(first, tmp_path) -> Path:
    """A copy of one finished run."""
    return Path(copytree(first, tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without the seconds that the figures of a report take."""

    def written(run: ApplicationRun, *_: object) -> Path:
        (run.path / "report.html").write_text("<html>")
        return run.path / "report.html"

    monkeypatch.setattr(runs, "write_report", written)


@pytest.fixture
def curves(tmp_path) -> Path:
    """Six files of curves, of 10 points each."""
    folder = tmp_path / "curves"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        x = rng.uniform(-5, 5, 10)
        np.savetxt(folder / f"{number}.csv", np.stack([x, number * np.sin(x)], 1), delimiter=",")
    return folder


def test_a_run_writes_all_its_files_with_every_default_and_the_score_of_every_task(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"recipe.json", "origin.json", "metrics.jsonl", "times.json",
                     "learner.safetensors", "evaluation.json", "report.html"}  # fmt: skip
    recipe = json.loads((finished / "recipe.json").read_text())
    assert recipe["application"] == "toy_application"
    assert recipe["learner"] == "conditional_neural_process"
    assert (recipe["steps"], recipe["tasks_per_step"], recipe["test_tasks"]) == (6, 2, 5)
    assert recipe["options"] == {"queries": 6, "widths": [8], "strict": False}
    row = json.loads((finished / "evaluation.json").read_text())["rows"][0]
    assert len(row["statistics"]["error"]["tasks"]) == 5
    assert "line" in [baseline["name"] for baseline in row["baselines"]]
    page = (finished / "report.html").read_text()
    assert "Curves that are not in training." in page
    assert "Task 1" in page  # drawn as the answer asks: curves of real numbers
    assert (finished / "metrics.jsonl").read_text().count("validation") >= 1


def test_a_baseline_of_the_application_scores_as_its_learner_does_alone(finished):
    stored = ApplicationRun.open(finished).evaluation()
    source = qs.tasks.Sinusoids(4, 6)
    alone = qs.evaluate(qs.LinearProbe(torch.nn.Identity()), source, 5, seed=0, baselines=False)
    found = {baseline.name: baseline for baseline in stored.main.baselines}["line"]
    torch.testing.assert_close(found.values, alone.main.values, rtol=1e-5, atol=0)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, finished, monkeypatch, quick):
    def stop(*args, **kwargs):
        os._exit(9)

    out, command = tmp_path / "killed", ("run", "--data", "waves", "--out")
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(runs, "evaluate_parts", stop)  # after training
        call(*command, out, *FAST)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    early = tmp_path / "killed early"
    child = os.fork()
    if child == 0:
        steps = iter(range(4))
        step = trainer._Trainer.step

        def counted(*args, **kwargs):
            return stop() if next(steps, None) is None else step(*args, **kwargs)

        monkeypatch.setattr(trainer._Trainer, "step", counted)
        call(*command, early, *FAST)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    expected = weights(finished)
    for folder in (out, early):
        assert not (folder / "evaluation.json").exists()
        done("run", "--resume", folder)
        assert (folder / "evaluation.json").read_text().split('"seconds')[0] == (
            finished / "evaluation.json"
        ).read_text().split('"seconds')[0]
        found = weights(folder)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_finished_run_can_be_trained_further(finished, quick):
    before = weights(finished)
    done("run", "--resume", finished, "--steps", "8")
    run = ApplicationRun.open(finished)
    assert run.steps == 8
    assert run.finished
    assert any(not torch.equal(before[name], each) for name, each in weights(finished).items())
    assert "Give more" in refused("run", "--resume", finished, "--steps", "3")


def test_learners_that_train_nothing_over_tasks_have_no_steps(tmp_path):
    done("run", "--data", "waves", "--learner", "linear_probe", "--out", tmp_path / "a", *FAST)
    assert ApplicationRun.open(tmp_path / "a").steps == 0
    assert "Nothing was trained over tasks." in (tmp_path / "a" / "report.html").read_text()
    error = refused("run", "--data", "waves", "--learner", "linear_probe", "--steps", "9")
    assert "has nothing to train" in error


def test_options_are_the_fields_of_the_application(tmp_path, quick):
    out = tmp_path / "run"
    done("run", "--data", "waves", "--queries", "3", "--set", "widths=[5, 4]", "--shots", "2",
         "--steps", "1", "--out", out, *FAST)  # fmt: skip
    recipe = ApplicationRun.open(out).recipe
    assert recipe.options == {"queries": 3, "widths": [5, 4], "strict": False}
    assert recipe.shots == 2
    assert read_application_recipe(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--ways", "3"), "ways means nothing for the application toy_application. Leave it out."),
        (("--split", "x"), "split means nothing"),
        (("--set", "quries=3"), "option of toy_application: 'quries' is unknown"),
        (("--set", "queries=many"), "option queries of toy_application must be int"),
        (("--learner", "maml"), "learner of toy_application: 'maml' is unknown"),
        (("--test-tasks", "1"), "test_tasks: must be at least 2"),
        (("--data", "toy_application"), "reads your own files. Give --root, a folder with one CSV"),
        (("--steps", "-1"), "steps: must be at least 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, words, expected):
    error = refused("run", "--data", "waves", *words, "--out", tmp_path / "run")
    assert expected in error
    assert not (tmp_path / "run").exists()


def test_own_files_are_trained_on_tested_adapted_to_and_predicted(tmp_path, curves, quick):
    run, saved = tmp_path / "run", tmp_path / "curve.safetensors"
    done("run", "--data", "toy_application", "--root", curves, "--out", run, *FAST)
    assert ApplicationRun.open(run).evaluation().tasks == 3  # all that there are
    said = json.loads(done("adapt", run, curves / "5.csv", "-o", saved, "--json"))
    assert said["application"]["name"] == "toy_application"
    assert said["application"]["support"] == 10
    assert said["unit"] == "metres"
    assert "support 10 rows from" in done("adapt", run, curves / "5.csv", "-o", tmp_path / "other")
    asked = tmp_path / "asked.txt"
    asked.write_text("0.5 1.5\n-2")
    rows = json.loads(done("predict", saved, asked, "--json", "--out", tmp_path / "out"))
    assert [row["name"] for row in rows["predictions"]] == ["x = 0.5", "x = 1.5", "x = -2"]
    with torch.no_grad():
        expected = qs.load(saved)(torch.tensor([[0.5], [1.5], [-2.0]])).flatten()
    found = torch.tensor([row["y"] for row in rows["predictions"]])
    assert torch.equal(found, expected)
    assert np.allclose(np.loadtxt(tmp_path / "out" / "y.txt"), expected)
    table = done("predict", saved, asked)
    assert "metres" in table
    assert f"{expected[0]:.3g}" in table


def test_adapting_and_predicting_refuse_what_they_cannot_read(tmp_path, finished, curves):
    saved, asked = tmp_path / "curve.safetensors", tmp_path / "asked.txt"
    assert "does not exist" in refused("adapt", finished, tmp_path / "none.csv", "-o", saved)
    (tmp_path / "bad.csv").write_text("1,2\n3,four\n")
    assert "two numbers a line" in refused("adapt", finished, tmp_path / "bad.csv", "-o", saved)
    assert "--invert means nothing" in refused(
        "adapt", finished, curves / "1.csv", "--invert", "-o", saved
    )
    assert not saved.exists()
    done("adapt", finished, curves / "1.csv", "-o", saved)
    asked.write_text("")
    assert "there is nothing to predict" in refused("predict", saved, asked)
    assert "does not exist" in refused("predict", saved, tmp_path / "none.txt")
    asked.write_text("1")
    assert "is not empty, and nothing is overwritten" in refused(
        "predict", saved, asked, "--out", curves
    )
    assert "--coverage means nothing" in refused("predict", saved, asked, "--coverage", "0.9")
    assert "was not made for image files" in refused("export", saved, "-o", tmp_path / "o.onnx")


def test_a_run_is_evaluated_and_reported_again(finished):
    again = json.loads(done("evaluate", finished, "--json"))
    stored = json.loads((finished / "evaluation.json").read_text())
    assert again["rows"] == stored["rows"]
    other = json.loads(done("evaluate", finished, "--tasks", "4", "--shots", "9", "--json"))
    assert other["tasks"] == 4
    assert other["fingerprint"] != stored["fingerprint"]
    assert "--ways means nothing" in refused("evaluate", finished, "--ways", "4")
    first = (finished / "report.html").read_text()
    done("report", finished)
    again = (finished / "report.html").read_text()
    assert _without_numbers(again) == _without_numbers(first)  # rounding moves points of figures


def _without_numbers(page: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?", "", page)


def test_commands_for_classes_alone_refuse_the_run_of_an_application(finished):
    assert "--test-again is not for runs of an application" in refused(
        "compare", finished, finished, "--test-again"
    )
    with pytest.raises(ValueError, match="is a run of the application toy_application"):
        Run.open(finished)


def test_lists_name_the_data_of_applications():
    listed = done("datasets")
    assert "waves" in listed
    assert "Where does an unseen sinusoid go?" in listed
    assert "Curves" in done("datasets", "toy_application")
    assert any(each["name"] == "waves" for each in json.loads(done("datasets", "--json")))


def test_the_data_of_a_resumed_run_must_be_the_same(tmp_path, curves, quick):
    run = tmp_path / "run"
    done("run", "--data", "toy_application", "--root", curves, "--out", run, *FAST)
    (run / "report.html").unlink()
    (curves / "0.csv").write_text((curves / "1.csv").read_text())
    assert "'0.csv' has changed" in refused("run", "--resume", run)
    assert "'0.csv' has changed" in refused("evaluate", run)
    (curves / "0.csv").unlink()
    assert "'0.csv' is gone" in refused("evaluate", run)
    (run / "files.json").unlink()  # of another version, that kept none: training notices it
    assert "first tasks" in refused("run", "--resume", run)


def test_finished_runs_are_compared(tmp_path, finished, quick):
    other = tmp_path / "probe"
    done("run", "--data", "waves", "--learner", "linear_probe", "--out", other, *FAST)
    table = done("compare", finished, other, "--out", tmp_path / "compared")
    assert "line" in table
    assert (tmp_path / "compared" / "comparison.html").is_file()
    copied = tmp_path / "copied"
    copytree(finished, copied)
    assert "one training" in refused("compare", finished, copied, other)
    done("run", "--data", "waves", "--queries", "9", "--learner", "linear_probe", "--out",
         tmp_path / "c", *FAST)  # fmt: skip
    assert "same tasks" in refused("compare", other, tmp_path / "c")
    assert isinstance(ApplicationRun.open(other).evaluation(), Evaluation)
