"""Scripts of ``benchmarks/`` run from start to result file, with little work in each."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


def call(script: str, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    import_module(script).main()


def test_sinusoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, sinusoid = tmp_path / "sinusoid.json", import_module("sinusoid")
    monkeypatch.setattr(sinusoid, "RATES", (0.01,))
    monkeypatch.setattr(sinusoid, "STEPS", range(2))
    few = "--steps 5 --other-steps 5 --test-tasks 3 --validation-tasks 3 --tasks-per-step 2"
    call("sinusoid", monkeypatch, *few.split(), "--out", out)
    results = json.loads(out.read_text())["results"]
    assert [r["shots"] for r in results] == [5, 10, 20]
    assert all(len(r["maml"]) == 2 for r in results)


def test_sinusoid_learners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sinusoid_learners"), "RESULTS", tmp_path / "all.json")
    call("sinusoid_learners", monkeypatch, "maml", "--steps", "2", "--test-tasks", "3")
    result = json.loads((tmp_path / "all.json").read_text())["maml"]
    assert result["metric"] == "mse"
    assert result["mean"] > 0
    assert result["tasks"] == 3


def test_adaptation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "adaptation.json"
    words = ("regression", "--learners", "maml", "cavia", "--seconds", "0.001", "--threads", "1")
    call("adaptation", monkeypatch, *words, "--results", out)
    assert "cavia" in out.read_text()


def test_memory_learners_and_fast_paths() -> None:
    """The steps themselves: that of SNAIL for one query, under two mappings."""
    fast_paths = import_module("fast_paths")
    line = fast_paths.Line("vmap", "snail_one_query", "loop", "vmap")
    fast, slow = fast_paths.in_one_process(line, rounds=2)
    assert len(fast) == len(slow) == 2
    assert fast_paths.result(line, fast, slow)["ratio"] > 0
    assert all(line.workload in fast_paths.WORKLOADS for line in fast_paths.LINES[:4])


def test_mutated_archives() -> None:
    """Every kind of file from outside, a few times: see the script for thousands."""
    found = import_module("mutated_archives").cases(300, seed=1)
    assert [case for case in found if case.outcome not in ("read", "refused")] == []
    assert sum(case.outcome == "refused" for case in found) > 150


@pytest.mark.parametrize("name", ["figures", "memory", "omniglot", "photographs", "scaling"])
def test_scripts_that_need_data_or_minutes_import(name: str) -> None:
    assert import_module(name)
