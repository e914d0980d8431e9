"""`quickstudy compare`: learners trained in run folders, and finished runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from click.testing import CliRunner

from quickstudy.base import atomic
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs import comparison_report
from quickstudy.interfaces.runs import execute as runs
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.plan import make_plan
from quickstudy.reports.comparison_tables import ranking_table
from quickstudy.selection.comparing.stored import Folder

LEARNERS = "prototypical,r2d2"


def words(points: Path, out: Path, *more: str, learners: str = LEARNERS) -> list[str]:
    return ["compare", "--learners", learners, "--data", "arrays", "--root", str(points),
            "--backbone", "mlp", "--ways", "2", "--queries", "3", "--train-queries", "3",
            "--steps", "2", "--seeds", "2", "--tasks", "20", "--tasks-per-step", "2",
            "--device", "cpu", "-o", str(out), *more]  # fmt: skip


def call(*given: str) -> str:
    ended = CliRunner().invoke(main, list(given), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def refused(*given: str) -> str:
    ended = CliRunner().invoke(main, list(given))
    assert ended.exit_code == 1, ended.output
    return ended.output


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """Without the seconds that the figures of a page take; tests/reports has pages."""
    patch = pytest.MonkeyPatch()
    patch.setattr(comparison_report, "comparison_page", lambda facts: f"<html>{facts.title}")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Path:
    """Classes of points so near to one another that every learner has something to learn."""
    path = tmp_path_factory.mktemp("near") / "points.npz"
    y = np.repeat(np.arange(12), 10)
    noise = np.random.default_rng(0).normal(size=(len(y), 2))
    np.savez(path, X=(noise + 0.5 * y[:, None]).astype(np.float32), y=y)
    return path


@pytest.fixture(scope="module")
def whole(points, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "comparison"
    printed = call(*words(points, folder, "--over-shots", "2"))
    assert "Prototypical Networks" in printed
    assert "target only" in printed
    return folder


def test_every_training_is_a_run_of_the_same_tasks(whole):
    table = Folder(whole).read().main
    assert [entry.name for entry in table.learners] == ["prototypical", "r2d2"]
    for name in ("prototypical", "r2d2"):
        for seed in range(2):
            run = Run.open(whole / f"{name}-seed-{seed}")
            assert (run.recipe.seed, run.recipe.test_seed) == (seed, 0)
            assert run.recipe.train_ways == run.recipe.ways == 2
            assert run.evaluation().fingerprint == table.fingerprint
            assert run.times[1] > 0
    assert table.entry("prototypical").over_shots[2].tasks == 20
    assert (whole / "comparison.html").read_text() == "<html>Learners on points.npz"


def test_the_same_command_and_resume_give_the_finished_result(whole, points, monkeypatch):
    monkeypatch.setattr(runs, "fit", lambda *_, **__: pytest.fail("trained"))
    before = (whole / "comparison.json").read_bytes()
    printed = call(*words(points, whole, "--over-shots", "2"))
    for row in ranking_table(Folder(whole).read().main):
        assert str(row["accuracy"]) in printed
        assert str(row["learner"]).split()[0] in printed
    as_json = json.loads(call("compare", "--resume", str(whole), "--json").split("\n", 1)[1])
    assert as_json["inductive"] == json.loads(before)["inductive"]
    assert (whole / "comparison.json").read_bytes() == before


def test_resume_refuses_every_other_option(whole):
    """Also one that turns something off."""
    for option in ("--no-rotations", "--test-again"):
        printed = CliRunner().invoke(main, ["compare", "--resume", str(whole), option])
        assert printed.exit_code == 1
        assert "Give nothing else" in printed.output


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "evaluation.json", "comparison.json"])
def test_a_comparison_killed_at_a_write_ends_with_the_same_bytes(whole, points, tmp_path, file):
    """benchmarks/killed_comparisons.py kills at random moments, twenty times."""
    given = words(points, tmp_path / "c", "--over-shots", "2")
    if (child := os.fork()) == 0:
        flush = atomic._flush

        def ended(temporary):
            flush(temporary)
            if temporary.name.startswith(f".{file}."):
                os.kill(os.getpid(), signal.SIGKILL)

        atomic._flush = ended
        main(given, standalone_mode=False)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    call("compare", "--resume", str(tmp_path / "c"))
    for name in ("comparison.json", "scores.csv"):
        assert (tmp_path / "c" / name).read_bytes() == (whole / name).read_bytes()


def test_a_signal_leaves_a_comparison_that_goes_on(points, tmp_path, monkeypatch):
    def cosine(progress):
        if progress == 0.5:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr(runs, "cosine", cosine)
    out = tmp_path / "c"
    ended = CliRunner().invoke(main, words(points, out, "--steps", "4"))
    assert ended.exit_code == 143, ended.output
    assert f"Continue with: quickstudy compare --resume {out}" in ended.output
    assert (out / "prototypical-seed-0" / "checkpoint.safetensors").is_file()
    assert not Folder(out).finished


def test_all_get_rows_in_random_order_where_one_reads_a_sequence(points):
    base = {"data": "arrays", "root": str(points), "backbone": "mlp"}
    mixed, _ = make_plan(base, ["prototypical", "snail"], steps=1)
    assert all(recipe.shuffled for recipe in mixed.recipes.values())
    plain, _ = make_plan(base, ["prototypical", "r2d2"], steps=1)
    assert not any(recipe.shuffled for recipe in plain.recipes.values())
    assert all(recipe.train_ways == recipe.ways for recipe in plain.recipes.values())


def test_finished_runs_give_the_stored_results(whole):
    folders = [str(path) for path in sorted(whole.glob("*-seed-*"))]
    found = json.loads(call("compare", *folders, "--json"))["inductive"]
    stored = json.loads((whole / "comparison.json").read_text())["inductive"]
    assert {name: each["mean"] for name, each in found["figures"].items()} == {
        name: each["mean"] for name, each in stored["figures"].items() if name != "untrained"
    }
    assert "--test-again" in found["left_out"]["untrained"]


def test_bad_arguments_for_finished_runs_are_refused_before_any_test(whole, tmp_path, monkeypatch):
    folders = [str(whole / f"{name}-seed-0") for name in ("prototypical", "r2d2")]
    monkeypatch.setattr("quickstudy.interfaces.runs.finished_runs.decide", None)
    again = ("compare", *folders, "--test-again")
    assert "tasks must be a whole number of at least 2; found 0" in refused(*again, "--tasks", "0")
    assert "test_seed must be a whole number" in refused(*again, "--test-seed", "-1")
    (tmp_path / "notes.txt").touch()
    assert "holds no comparison" in refused(*again, "-o", str(tmp_path))


def test_a_recipe_with_the_name_of_a_baseline_is_refused(points, tmp_path):
    recipe = tmp_path / "chance.yaml"
    recipe.write_text("learner: r2d2\n")
    given = words(points, tmp_path / "out", learners=f"prototypical,{recipe}")
    assert "no learner may have the name of one; found 'chance'" in refused(*given)


def test_finished_runs_are_tested_again_where_asked(whole, tmp_path):
    folders = [str(path) for path in whole.glob("*-seed-*")]
    call("compare", *folders, "--test-again", "--tasks", "20", "--test-seed", "1", "-o",
         str(tmp_path / "again"))  # fmt: skip
    table = Folder(tmp_path / "again").read().main
    assert table.fingerprint != Folder(whole).read().main.fingerprint
    assert {entry.name for entry in table.baselines} >= {"chance", "target_only", "untrained"}


def changed(whole: Path, tmp_path: Path, file: str, change) -> str:
    """A copy of a run with one file changed."""
    copied = copytree(whole / "r2d2-seed-0", tmp_path / "changed")
    values = json.loads((copied / file).read_text())
    change(values)
    (copied / file).write_text(json.dumps(values))
    return str(copied)


REFUSED = {
    "found shots 1 in": ("recipe.json", lambda recipe: recipe.update(shots=3)),
    "found ways 2 in": ("recipe.json", lambda recipe: recipe.update(ways=3)),
    "found data 'arrays' in": ("recipe.json", lambda recipe: recipe.update(data="glyphs")),
    "found the fingerprint": ("evaluation.json", lambda e: e.update(fingerprint="0" * 16)),
    "found 0.99. The file was changed or damaged": (
        "evaluation.json", lambda e: e["rows"][0].update(mean=0.99)
    ),
    "of a cross-validation": ("recipe.json", lambda recipe: recipe.update(folds=2, fold=1)),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_runs_that_cannot_be_compared_are_refused(whole, tmp_path, message):
    other = changed(whole, tmp_path, *REFUSED[message])
    assert message in refused("compare", str(whole / "prototypical-seed-0"), other)


def test_runs_of_too_few_or_unequal_learners_are_refused(whole, tmp_path):
    one, other = (str(whole / f"prototypical-seed-{seed}") for seed in range(2))
    assert "at least 2 learners" in refused("compare", one, other)
    assert "is given twice" in refused("compare", one, one)
    third = str(whole / "r2d2-seed-0")
    assert "as many trainings; found 2 of prototypical and 1 of r2d2" in refused(
        "compare", one, other, third
    )
    twin = str(copytree(whole / "r2d2-seed-0", tmp_path / "twin"))
    assert "are one training" in refused("compare", one, third, twin)


BAD = {
    "at least 2 learners; found 1": ("--learners", "prototypical"),
    "found 'r2d2' twice": ("--learners", "r2d2,prototypical,r2d2"),
    "learner: 'r2d' is unknown": ("--learners", "prototypical,r2d"),
    "steps must be at least 1": ("--steps", "0"),
    "seeds must be at least 1": ("--seeds", "0"),
    "tasks must be at least 2": ("--tasks", "1"),
    "is --steps or --minutes; found both": ("--minutes", "1"),
    "matters must be a number": ("--matters", "nan"),
    "--set is LEARNER.NAME=VALUE": ("--set", "steps=3"),
    "option of r2d2: 'nothing' is unknown": ("--set", "r2d2.nothing=3"),
    "option outputs of snail: must be at least 2": (
        "--learners",
        "r2d2,snail",
        "--set",
        "snail.outputs=1",
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_before_any_training(points, tmp_path, monkeypatch, message):
    monkeypatch.setattr(runs, "fit", lambda *_, **__: pytest.fail("trained"))
    said = refused(*words(points, tmp_path / "c", *BAD[message]))
    assert message in said
    assert not list(tmp_path.glob("c/*-seed-*"))


def test_a_recipe_file_is_a_learner_of_its_own_name(points, tmp_path):
    recipe = tmp_path / "slow.yaml"
    recipe.write_text("learner: prototypical\nrate: 1e-5\nsteps: 900\n")
    call(*words(points, tmp_path / "c", learners=f"prototypical,{recipe}"))
    table = Folder(tmp_path / "c").read().main
    assert [entry.name for entry in table.learners] == ["prototypical", "slow"]
    run = Run.open(tmp_path / "c" / "slow-seed-1")
    assert (run.recipe.rate, run.recipe.steps) == (1e-5, 2)
    recipe.write_text("learner: prototypical\nshots: 4\n")
    said = refused(*words(points, tmp_path / "d", learners=f"r2d2,{recipe}"))
    assert "its shots is 4, but that of the comparison is 1" in said
