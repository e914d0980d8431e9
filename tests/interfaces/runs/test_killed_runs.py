"""A run that is killed at any write can go on, by ``--resume`` or by ``--out``."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest
from click.testing import CliRunner

from quickstudy.base import atomic
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs import execute as runs
from quickstudy.interfaces.runs.folder import Run
from quickstudy.training.log import read_metrics

FILES = ["recipe.json", "origin.json", "split.json", "metrics.jsonl", "checkpoint.safetensors",
         "times.json", "learner.safetensors", "evaluation.json", "report.html"]  # fmt: skip
"""All files of a run, in the order in which they are first written."""


@pytest.fixture
def no_report(monkeypatch):
    """Without the seconds that the figures of a report take."""
    monkeypatch.setattr(runs, "insights", lambda *_: type("First", (), {"view": None})())
    monkeypatch.setattr(runs, "view", lambda *_: None)
    monkeypatch.setattr(runs, "page", lambda facts: "<html>")


def killed(work, file: str, after: bool) -> None:
    """``work()`` in a process that ends, without any clean-up, at its first write of ``file``."""
    child = os.fork()
    if child == 0:
        flush, link, replace = atomic._flush, os.link, Path.replace

        def ended(temporary):
            return temporary.name.startswith(f".{file}.")

        def flushed(temporary):
            flush(temporary)
            if ended(temporary) and not after:
                os._exit(9)

        def linked(temporary, target):
            link(temporary, target)
            if ended(temporary):
                os._exit(9)

        def replaced(temporary, target):
            replace(temporary, target)
            if ended(temporary):
                os._exit(9)

        atomic._flush, os.link, Path.replace = flushed, linked, replaced
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, f"{file} was not written"


def begun(recipe, path: Path) -> None:
    runs.execute(*runs.begin(recipe, path), progress=False)


def trained_further(path: Path, steps: int) -> None:
    runs.execute(Run.open(path).further(steps), resume=True, progress=False)


def scores(path: Path) -> list[float]:
    stored = Evaluation.from_json(json.loads((path / "evaluation.json").read_text()))
    return stored.scores.tolist()


def test_a_run_killed_at_any_write_can_go_on(short, tmp_path, no_report):
    short = replace(short, steps=1, test_tasks=2)
    runs.execute(*runs.begin(short, tmp_path / "whole"), progress=False)
    assert {path.name for path in (tmp_path / "whole").iterdir()} == set(FILES)
    for file, after in [*((file, False) for file in FILES), ("recipe.json", True)]:
        path = tmp_path / f"{file} {after}"
        killed(partial(begun, short, path), file, after)
        if file == "recipe.json" and not after:
            # There is no recipe yet: the run starts again in the same folder.
            with pytest.raises(FileNotFoundError, match=r"holds no run.*again with --out"):
                Run.open(path)
            runs.execute(*runs.begin(short, path), progress=False)
        else:
            with pytest.raises(FileExistsError, match="continue with `quickstudy run --resume"):
                runs.begin(short, path)
            runs.execute(Run.open(path), resume=True, progress=False)
        assert {each.name for each in path.iterdir()} == set(FILES), (file, after)
        assert scores(path) == scores(tmp_path / "whole"), (file, after)
        assert Run.open(path).origin.versions["device"] == "cpu"


def losses(path: Path) -> list[tuple[int, float]]:
    """Of the steps that are logged; weights may be those of an early validation."""
    rows = read_metrics(path / "metrics.jsonl")
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.mark.filterwarnings("ignore:fit. the first")
def test_training_further_can_be_killed_at_any_write(short, tmp_path, no_report):
    short = replace(short, steps=2, test_tasks=2)
    runs.execute(*runs.begin(short, tmp_path / "short"), progress=False)
    whole = copytree(tmp_path / "short", tmp_path / "whole")
    trained_further(whole, 3)
    assert Run.open(whole).recipe.steps == 3
    assert [step for step, _ in losses(whole)] == [2, 3]
    for file, after in [("origin.json", False), ("recipe.json", False), ("recipe.json", True),
                        ("evaluation.json", False)]:  # fmt: skip
        path = copytree(tmp_path / "short", tmp_path / f"{file} {after}")
        killed(partial(trained_further, path, 3), file, after)
        assert not (path / "report.html").exists(), "a result of other steps than the recipe's"
        assert not (path / "evaluation.json").exists()
        trained_further(path, 3)  # the same command again
        assert (scores(path), losses(path)) == (scores(whole), losses(whole)), (file, after)
        assert Run.open(path).origin.ends == (2,)
    # Or, killed before the recipe has more steps, back to the old end.
    path = copytree(tmp_path / "short", tmp_path / "back")
    killed(partial(trained_further, path, 3), "recipe.json", False)
    runs.execute(Run.open(path), resume=True, progress=False)
    assert (scores(path), losses(path)) == (scores(tmp_path / "short"), losses(tmp_path / "short"))


@pytest.mark.filterwarnings("ignore:fit. the first")
def test_training_further_is_refused_where_it_would_change_nothing(short, tmp_path, no_report):
    for number, (settings, steps, message) in enumerate([
        ({"steps": 3}, 2, "has 3 steps; found --steps 2. Give more"),
        ({"steps": 9, "validate_every": 1, "patience": 1}, 12, "stopped early by"),
    ]):  # fmt: skip
        path = tmp_path / str(number)
        runs.execute(*runs.begin(replace(short, **settings), path), progress=False)
        before = {each: each.read_bytes() for each in path.iterdir()}
        Run.open(path).further(settings["steps"])
        with pytest.raises(ValueError, match=message):
            Run.open(path).further(steps)
        assert {each: each.read_bytes() for each in path.iterdir()} == before
    (path / "report.html").unlink()
    longer = Run(path, replace(Run.open(path).recipe, steps=12))
    with pytest.raises(ValueError, match="stopped early by"):
        runs.execute(longer, resume=True, progress=False)
    fold = Run(path, replace(short, folds=3, fold=1))
    with pytest.raises(ValueError, match="cross-validation"):
        fold.further(10**6)


def test_a_folder_of_other_files_is_not_said_to_be_a_run(short, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"is not empty.*give another folder") as caught:
        runs.begin(short, tmp_path)
    assert "--resume" not in str(caught.value)


def test_sigterm_ends_the_command_as_a_shell_expects(points, tmp_path, no_report, monkeypatch):
    def cosine(progress):
        if progress == 0.5:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr(runs, "cosine", cosine)
    words = ["run", "--data", "arrays", "--root", str(points), "--backbone", "mlp", "--ways", "2",
             "--queries", "3", "--train-queries", "3", "--steps", "4", "--test-tasks", "2",
             "--device", "cpu", "--out", str(tmp_path / "x")]  # fmt: skip
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 143, ended.output
    assert f"--resume {tmp_path / 'x'}" in ended.output
    assert (tmp_path / "x" / "checkpoint.safetensors").is_file()
