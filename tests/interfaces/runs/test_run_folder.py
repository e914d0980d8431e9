"""Run folders: created by one run alone, never overwritten, with their origin."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quickstudy.interfaces.runs import provenance, run_files
from quickstudy.interfaces.runs.execute import begin, execute
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.recipe import Recipe


def test_runs_that_start_in_the_same_second_get_separate_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frozen = type("Clock", (run_files.datetime,), {"now": staticmethod(lambda: NOON)})
    monkeypatch.setattr(run_files, "datetime", frozen)
    monkeypatch.setattr(
        Path, "exists", lambda self, **_: False
    )  # as seen by a run that starts at the same time
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda seed: Run.create(Recipe(seed=seed)), range(8)))
    assert len({run.path for run in runs}) == 8
    assert [Run.open(run.path).recipe.seed for run in runs] == list(range(8))


NOON = run_files.datetime(2024, 1, 1, 12)


def test_a_named_folder_belongs_to_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "refuse_not_empty", _passing_once(run_files.refuse_not_empty))
    Run.create(Recipe(seed=1), tmp_path / "run")
    monkeypatch.setattr(run_files, "refuse_not_empty", _passing_once(run_files.refuse_not_empty))
    with pytest.raises(FileExistsError, match="overwrites nothing"):
        Run.create(Recipe(seed=2), tmp_path / "run")
    assert Run.open(tmp_path / "run").recipe.seed == 1


def _passing_once(check):
    """``check`` that passes at its first call, as if another run started right after it."""
    calls = iter([lambda path: None])
    return lambda path: next(calls, check)(path)


def test_a_recipe_that_cannot_run_leaves_no_folder(short, tmp_path):
    for wrong in ({"ways": 10}, {"options": {"scale": "abc"}}, {"root": "nowhere"},
                  {"backbone": "conv4"}):  # fmt: skip
        with pytest.raises((ValueError, OSError)):
            begin(replace(short, **wrong), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_report_shows_the_first_command_after_resuming(short, tmp_path):
    run, _ = begin(short, tmp_path / "run", command="quickstudy run --first")
    execute(Run.open(run.path), resume=True, progress=False)  # as after a kill before step 1
    page = run.path / "report.html"
    assert "quickstudy run --first" in page.read_text()
    assert run.origin.versions["device"] == "cpu"

    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.iterdir()}
    again = execute(Run.open(run.path), resume=True)
    assert again is not None
    assert len(again.scores) == 5
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.iterdir()} == before


def test_the_commit_of_another_repository_is_not_reported(tmp_path, monkeypatch):
    site = tmp_path / "venv" / "quickstudy" / "runs"
    site.mkdir(parents=True)
    (site / "provenance.py").touch()
    (tmp_path / "own.py").touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    for words in (["init"], ["add", "own.py"], ["commit", "-m", "own"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    monkeypatch.setattr(provenance, "__file__", str(site / "provenance.py"))
    assert provenance.commit() == ""
    subprocess.run([*git, "add", "venv"], check=True)
    assert len(provenance.commit()) >= 7, "a tracked file counts as quickstudy's own"


@pytest.mark.parametrize(("optimiser", "uniform"), [("adam", True), ("sgd", False)])
def test_training_uses_the_optimiser_of_the_recipe(short, tmp_path, optimiser, uniform):
    """Adam's first step moves every weight by the rate, whatever its gradient; SGD's does not."""
    soft = {"scale": 1e-3}  # without it the loss of these easy points has nearly no gradient
    recipe = replace(short, steps=1, rate=1e-3, optimiser=optimiser, options=soft)
    run, parts = begin(recipe, tmp_path / "run")
    before = [p.detach().clone() for p in parts.learner.parameters()]
    execute(run, parts, progress=False)
    moves = torch.cat([
        (p - b).abs().flatten() for p, b in zip(parts.learner.parameters(), before, strict=True)
    ])  # fmt: skip
    assert 0 < moves.max() < 1.01e-3
    assert bool(moves.max() > 0.99e-3) is uniform
