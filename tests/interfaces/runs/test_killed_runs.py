"""A run that is killed at any write can go on, by ``--resume`` or by ``--out``."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from quickstudy.base import atomic
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs import execute as runs
from quickstudy.interfaces.runs.folder import Run

FILES = ["recipe.json", "origin.json", "split.json", "metrics.jsonl", "checkpoint.safetensors",
         "learner.safetensors", "evaluation.json", "report.html"]  # fmt: skip
"""All files of a run, in the order in which they are first written."""


@pytest.fixture
def no_report(monkeypatch):
    """Without the seconds that the figures of a report take."""
    monkeypatch.setattr(runs, "insights", lambda *_: type("First", (), {"view": None})())
    monkeypatch.setattr(runs, "view", lambda *_: None)
    monkeypatch.setattr(runs, "page", lambda facts: "<html>")


def killed(recipe, path: Path, file: str, after: bool) -> None:
    """A run in a process that ends, without any clean-up, at its first write of ``file``."""
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
            runs.execute(*runs.begin(recipe, path), progress=False)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, f"{file} was not written"


def scores(path: Path) -> list[float]:
    stored = Evaluation.from_json(json.loads((path / "evaluation.json").read_text()))
    return stored.scores.tolist()


def test_a_run_killed_at_any_write_can_go_on(short, tmp_path, no_report):
    short = replace(short, steps=1, test_tasks=2)
    runs.execute(*runs.begin(short, tmp_path / "whole"), progress=False)
    assert {path.name for path in (tmp_path / "whole").iterdir()} == set(FILES)
    for file, after in [*((file, False) for file in FILES), ("recipe.json", True)]:
        path = tmp_path / f"{file} {after}"
        killed(short, path, file, after)
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
