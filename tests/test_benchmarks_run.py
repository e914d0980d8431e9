"""Scripts of ``benchmarks/`` run from start to result file, with little work in each."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import quickstudy as qs

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


def test_every_drawing_as_support_is_the_mean_over_the_choices() -> None:
    lake_runs = import_module("lake_runs")
    learner = qs.Prototypical(torch.nn.Flatten())
    drawings = torch.randn(3, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    spec, ids = qs.classification(4), torch.arange(4)
    losses = []
    for chosen in range(3):
        others = torch.cat([drawings[:chosen], drawings[chosen + 1 :]])
        predictor = learner(qs.examples(drawings[chosen], ids), spec)
        losses.append(F.cross_entropy(predictor(others.flatten(0, 1)), ids.repeat(2)))
    queries = drawings[1:].transpose(0, 1).flatten(0, 1)  # ordered by class
    task = qs.Task(
        qs.examples(drawings[0], ids), qs.examples(queries, ids.repeat_interleave(2)), spec
    )
    found = lake_runs.every_drawing_as_support(learner, task)
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_distorted_drawings_stay_in_the_picture() -> None:
    lake_runs = import_module("lake_runs")
    images = torch.zeros(50, 1, 28, 28)
    images[:, :, 8:20, 8:20] = 1
    found = lake_runs.distort(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    ink = found.sum((1, 2, 3)) / images[0].sum()
    assert 0.7 < float(ink.min()) < float(ink.max()) < 1.5  # areas change by up to 1.15² or more
    assert len({*ink.tolist()}) == 50


@pytest.mark.parametrize("name", ["figures", "memory", "omniglot", "photographs", "scaling"])
def test_scripts_that_need_data_or_minutes_import(name: str) -> None:
    assert import_module(name)


def test_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small source of the other rule, in place of the data sets."""
    instances, out = import_module("instances"), tmp_path / "instances.json"
    made = torch.Generator().manual_seed(0)

    def rows_of(problem: str, root: Path) -> tuple[qs.Examples, qs.Examples]:
        x = torch.randn(200, 3, generator=made)
        y = (x[:, 0] > 0).long()
        source = qs.examples(x[:80], (x[:80, 1] > 0).long(), groups=torch.ones(80).long())
        return source, qs.examples(x[80:], y[80:])

    monkeypatch.setattr(instances, "rows_of", rows_of)
    call("instances", monkeypatch, "rec_vs_talk", "--seeds", "2", "--rounds", "2", "--out", out)
    found = json.loads(out.read_text())["rec_vs_talk"]
    assert {len(errors) for errors in found["seeds"].values()} == {2}
    assert set(found["soft_minus"]) == {"source", "pooled", "target", "hard"}
    mean = sum(found["seeds"]["soft"]) / 2
    assert found["errors"]["soft"]["mean"] == pytest.approx(mean)
