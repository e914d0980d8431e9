"""Scripts of ``benchmarks/`` run from start to result file, with little work in each."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import quickstudy as qs
from drawn_tiles import tiles
from made_up import random_classes

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


def call(script: str, monkeypatch: pytest.MonkeyPatch, *words: str | int | Path) -> None:
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


def test_named_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "named_tasks.json"
    call("named_tasks", monkeypatch, "--tasks", "3", "--rows", "4", "--rounds", "2", "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["learner"] for row in rows] == ["HardSharing", "SingleTask"]
    assert all(row["gradients differ by"] < 1e-12 for row in rows)


def test_sinusoid_learners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sinusoid_learners"), "RESULTS", tmp_path / "all.json")
    call("sinusoid_learners", monkeypatch, "maml", "--steps", "2", "--test-tasks", "3")
    result = json.loads((tmp_path / "all.json").read_text())["maml"]
    assert result["metric"] == "mse"
    assert result["mean"] > 0
    assert result["tasks"] == 3


def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each part but the training on glyphs, and then the next row of one."""
    out, verdicts = tmp_path / "verdicts.json", import_module("verdicts")
    monkeypatch.setattr(verdicts, "true_difference", lambda ways: 0.014)
    monkeypatch.setattr("quickstudy.evaluation.intervals.RESAMPLES", 4000)
    few = ("--repetitions", 2, "--resamples", 50, "--rows", 1, "--out", out)
    call("verdicts", monkeypatch, "null", "others", "tasks", "trainings", "power", *few)
    call("verdicts", monkeypatch, "null", *few)
    found = json.loads(out.read_text())
    assert [row["plan"] for row in found["null"]] == ["one look", "looks"]
    assert [len(found[part]) for part in ("others", "tasks", "trainings", "power")] == [1] * 4
    assert (
        0 < found["others"][0]["half-width of these"] < found["others"][0]["half-width of others"]
    )


def test_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    out, few = tmp_path / "out.json", ("--tasks", 2, "--set", "size=64")
    words = ("cells", "--root", shared_data, "--weights", tmp_path / "w", "--out", out)
    for label in ("prototypical_segmentation", "dense_matching"):
        call("segmentation", monkeypatch, *words, *few, "--only", label)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["learner"], row["shots"]) for row in rows] == [
        (label, shots) for label in ("prototypical_segmentation", "dense_matching")
        for shots in (1, 5)
    ]  # fmt: skip
    assert all(0 < score < 1 for row in rows for score in row["scores"])
    call("segmentation_picture", monkeypatch, "--steps", 1, "--out", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size < 150_000


def test_adaptation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "adaptation.json"
    words = ("regression", "--learners", "maml", "cavia", "--seconds", "0.001", "--threads", "1")
    call("adaptation", monkeypatch, *words, "--results", out)
    assert "cavia" in out.read_text()


def test_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "fine_tuning.json"
    few = ("--tasks", "2", "--epochs", "0.01", "--channels", "4", "--only", "5-way 5-shot")
    chosen = ("--learners", "probe (logistic)", "last block, from the probe")
    call("fine_tuning", monkeypatch, *few, *chosen, "--out", out)
    (result,) = json.loads(out.read_text())["results"].values()
    assert [len(row["scores"]) for row in result.values()] == [2, 2]
    assert result["probe (logistic)"]["gain_over_probe"] == 0


def test_memory_learners_and_fast_paths() -> None:
    """The steps themselves: that of SNAIL for one query, under two mappings."""
    fast_paths = import_module("fast_paths")
    line = fast_paths.Line("vmap", "snail_one_query", "loop", "vmap")
    fast, slow = fast_paths.in_one_process(line, rounds=2)
    assert len(fast) == len(slow) == 2
    assert fast_paths.result(line, fast, slow)["ratio"] > 0
    assert all(line.workload in fast_paths.WORKLOADS for line in fast_paths.LINES[:4])


def test_on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: the parts are kept as they end, and a second call does what is missing alone."""
    out, parts = tmp_path / "on_gpu.json", ("peak", "speed maml_28_1_step", "omniglot maml")
    words = ("--quick", "--device", "cpu", "--out", out)
    call("on_gpu", monkeypatch, *words, "--only", *parts[:2])
    first = json.loads(out.read_text())["parts"]
    call("on_gpu", monkeypatch, *words, "--only", *parts)
    found = json.loads(out.read_text())["parts"]
    assert list(found) == list(parts)
    assert {name: found[name] for name in first} == first
    speeds = {row["contender"]: row for row in found["speed maml_28_1_step"]["contenders"]}
    assert all(speeds[n]["errors"]["float64"] < 1e-9 for n in ("quickstudy", "plain loop"))
    assert len(speeds["plain loop"]["seconds_per_step"]) == 2
    row = found["omniglot maml"]["evaluation"]["rows"][0]
    assert len(row["values"]) == 2
    call("on_gpu", monkeypatch, "--quick", "--device", "cpu", "--out", out, "--seconds", "0.001",
         "--only", "omniglot snail", "peak")  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds none here"):
        call("on_gpu", monkeypatch, "--quick", "--out", out)
    with pytest.raises(ValueError, match="of other settings"):
        call("on_gpu", monkeypatch, *words, "--seed", "1")


def test_operations_are_counted_and_wrong_gradients_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forward and a backward pass of convolutions and a head by hand; a gradient times 1.001."""
    on_device = import_module("contest.on_device")
    small = on_device.QUICK | {"queries": 1, "steps": 0}
    work = replace(on_device.WORKLOADS["prototypical_28_5_ways"], **small)
    cpu, rows, sides = torch.device("cpu"), 2 * work.ways, (16, 8, 4, 2)
    one_pass = sum(2 * 9 * rows * a * 4 * s**2 for a, s in zip((1, 4, 4, 4), sides, strict=True))
    into_weights_and_maps = 2 * one_pass - 2 * 9 * rows * 4 * 16**2  # the first has no map before
    assert on_device.flops_of_one_task(work, cpu) == one_pass + into_weights_and_maps
    honest = on_device.prepared

    def wrong(contender: Any, *about: Any) -> Any:
        step = honest(contender, *about)
        if contender.name != "plain loop":
            return step
        return lambda: {name: 1.001 * found for name, found in step().items()}

    monkeypatch.setattr(on_device, "prepared", wrong)
    rows_found = on_device.speed(work, cpu, 2, 1)["contenders"]
    by_name = {row["contender"]: row for row in rows_found}
    assert "wrong by 0.001" in by_name["plain loop"]["missing"]
    assert by_name["quickstudy"]["tasks_per_second"] > 0


def test_papers_settings_can_be_made() -> None:
    """Every row of the GPU's table; one of them is trained in the test above."""
    for paper in import_module("omniglot_papers").PAPERS.values():
        net = qs.backbones.Conv4(4, outputs=20 if paper.head else None)
        assert isinstance(paper.make(net, 20), qs.Learner)


def test_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))  # the script sets it for itself
    monkeypatch.setattr(import_module("pretrained"), "BATCHES", (1,))
    out = tmp_path / "pretrained.json"
    call("pretrained", monkeypatch, "--rounds", "1", "--sizes", "32", "--out", out)
    found = json.loads(out.read_text())
    assert found["networks"][0]["ratio"] > 0
    assert found["tasks"][0]["by_features_ms"] > 0


def test_memory_against_lstm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, out = import_module("memory_against_lstm"), tmp_path / "memory.json"
    rows = random_classes(classes=20, rows=20, side=28)
    data = qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)
    monkeypatch.setattr(qs.datasets, "load", lambda *_, **__: data)
    few = "--seeds 1 --steps 1 --tasks-per-step 2 --backbone-steps 1 --channels 4 --test-tasks 3"
    call("memory_against_lstm", monkeypatch, *few.split(), "--out", out)
    trainings = json.loads(out.read_text())["trainings"]
    assert [each["learner"] for each in trainings] == list(script.KINDS)
    assert [each["tasks"] for each in trainings] == [2, 2, 4]
    prints = {(test["shots"], test["fingerprint"]) for each in trainings for test in each["tests"]}
    assert len(prints) == 2, "all learners have the same test tasks"
    assert len(script.table(trainings)) == 6


def test_conformal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = import_module("conformal")
    rows = random_classes(classes=40, rows=10, side=28)
    data = qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)
    monkeypatch.setattr(qs.datasets, "load", lambda *_, **__: data)
    monkeypatch.setattr(script, "SETTINGS", {"5-way 5-shot": (5, 5)})
    few = "--steps 1 --channels 4 --tasks 10 --calibration-tasks 10 --halves 1"
    call("conformal", monkeypatch, "glyphs", *few.split(), "--out", tmp_path)
    found = json.loads((tmp_path / "glyphs.json").read_text())["5-way 5-shot"]
    assert list(found["coverage"]) == ["same classes", "other scripts", "left out"]
    assert all(len(each) == 10 for each in found["coverage"]["same classes"].values())
    assert len(found["halves"]) == 1
    assert all(len(areas) == 5 for areas in found["strangers"].values())


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


def test_pretrained_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up features: classes are clouds. Tasks are the same for all methods of a domain."""
    script = import_module("pretrained_photographs")
    monkeypatch.setattr(script, "FEATURES", 16)
    all_of_them = script.on_features
    monkeypatch.setattr(script, "on_features", lambda *a, **k: islice(all_of_them(*a, **k), 1))
    generator = torch.Generator().manual_seed(0)

    def split(classes: int, rows: int) -> qs.LabelledRows:
        means = 3 * torch.randn(classes, 1, 16, generator=generator)
        inputs = (means + torch.randn(classes, rows, 16, generator=generator)).flatten(0, 1)
        names = tuple(f"class {k}" for k in range(classes))
        return qs.LabelledRows(inputs, torch.full((classes,), rows), names)

    def domain(name: str, side: int, splits: tuple[str, ...]) -> object:
        rows = {each: split(8, 4 if name == "emoji" else 20) for each in splits}
        return script.Domain(rows, rows, 5, 3 if name == "emoji" else 15)

    table = script.Table(tmp_path / "table.json", tasks=2)
    script.frozen_part(table, domain)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert {row["shots"] for row in rows} == {1, 5}
    assert all(len(row["scores"]) == 2 for row in rows)
    prints = {(row["side"], row["shots"]): set() for row in rows}
    for row in rows:
        prints[row["side"], row["shots"]].add(row["fingerprint"])
    assert all(len(each) == 1 for each in prints.values())
    one = domain("emoji", 128, ("train", "test"))
    made = script.across_domains({"emoji": one, "wbc": domain("wbc", 128, ("train", "test"))}, 1)
    name, method, learner = next(made)
    assert (name, method) == ("emoji", "In-context, trained on wbc")
    table.add(name, one, method, learner, 128)
    assert one.shots == [1]


@pytest.mark.parametrize(
    "name",
    [
        "figures",
        "killed_comparisons",
        "killed_tuning",
        "memory",
        "omniglot",
        "photographs",
        "scaling",
    ],
)
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


def test_shifts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source row of skada's published benchmark is .85 on target shift; one seed of five."""
    pytest.importorskip("skada")
    shifts, out = import_module("shifts"), tmp_path / "shifts.json"
    monkeypatch.setattr(shifts, "SHIFTS", {"target_shift": (1, 0.8)})
    settings = shifts.METHODS["linear transport"]
    monkeypatch.setitem(shifts.METHODS, "linear transport", settings[:1])
    names = ("source only", "linear transport")
    call("shifts", monkeypatch, *names, "--seeds", "1", "--results", out)
    results = json.loads(out.read_text())["results"]
    source, moved = (results[n]["target labels"]["target_shift"] for n in names)
    assert sum(source) / 5 == pytest.approx(0.85, abs=0.04)
    assert len(moved) == 5


def test_domain_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    out = tmp_path / "pairs.json"
    words = ("--root", shared_data, "--seeds", "2", "--steps", "1", "--results", out)
    call("domain_pairs", monkeypatch, "digits", "network", "DANN", *words)
    scores = json.loads(out.read_text())["digits"]["scores"]
    assert set(scores) == {"network", "DANN"}
    assert all(len(values) == 2 for values in scores["DANN"].values())
    # The first step has strength 0.
    assert scores["DANN"] == scores["network"]


def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    out, method = tmp_path / "text.json", "tf-idf, nearest mean"
    call("text", monkeypatch, "--root", shared_data, "--only", method, "--tasks", "3", "--out", out)
    results = json.loads(out.read_text())
    assert list(results) == [f"intents {method} 1", f"intents {method} 5"]
    for result in results.values():
        assert len(result["scores"]) == 3
        assert result["mean"] == pytest.approx(sum(result["scores"]) / 3, abs=1e-4)


def test_translation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    """The scores that it keeps are those of the answer."""
    pytest.importorskip("tokenizers")
    out, script = tmp_path / "translation.json", import_module("translation")
    words = ("nearest", "--root", shared_data, "--languages", "es,pt", "--held-out", "gl",
             "--only", "translation memory", "--messages", "24", "--results", out)  # fmt: skip
    call("translation", monkeypatch, *words)
    row = json.loads(out.read_text())["nearest"]["gl"]["translation memory"]
    assert len(row["counts"]) == len(row["english"]) == len(row["placeholders"]) >= 20
    app = script.Translation("nearest", "gl", "es,pt", 24)
    made = app.prepare("messages", shared_data, "early_stopping", 200, 0)
    task, memory = made.test.at(0), made.baselines["translation memory"]
    score = task.spec.answer.scores[3]
    decoded = task.spec.answer.decode(memory(task.support, task.spec), task.query.inputs)
    expected = float(score.value(score.statistic(decoded, task.query)))
    assert script.chrf_of(row) == pytest.approx(100 * expected, abs=1e-9)
    assert script.half_width(row, row) == 0


def test_published_figures_of_transferability_are_found_again(tmp_path: Path) -> None:
    """On CIFAR-10, to the three digits that the source states."""
    found = import_module("transferability").published()["CIFAR-10"]
    assert {name: round(of["tau"], 3) for name, of in found.items()} == {
        name: of["stated"] for name, of in found.items()
    }


def test_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skada")
    out, gate = tmp_path / "gate.json", import_module("gate")
    monkeypatch.setattr(gate, "SHIFTS", {"conditional_shift": (1, 0.8)})
    monkeypatch.setattr(gate, "SEEDS", range(2))
    call("gate", monkeypatch, "shifts", "--more", "--draws", "1", "--size", "10", "--out", out)
    found = json.loads(out.read_text())["conditional_shift"]
    assert found["tasks"] == len(found["rows"]["gate"]["scores"]) == 2
    assert sum(found["choices"]["gate, more methods"].values()) == 2


def test_negative_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted sources are found nearly always; thousands of comparisons are in the script."""
    out = tmp_path / "negative_transfer.json"
    call("negative_transfer", monkeypatch, "--families", "2", "--repeats", "3", "--out", out)
    found = json.loads(out.read_text())
    for kind in ("flipped labels", "other function"):
        assert len(found[kind]["auc"]["effect"]["families"]) == 2
        assert found[kind]["auc"]["effect"]["mean"] > 0.7


def test_balancing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rows = tmp_path / "balancing.json", random_classes(classes=6, rows=16, side=28)
    data = qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)
    monkeypatch.setattr(qs.datasets, "load", lambda name: data)
    few = ("--steps", "2", "--seeds", "2", "--tasks", "2", "--out", out)
    call("balancing", monkeypatch, "mean", "equal", *few)
    found = json.loads(out.read_text())
    assert [len(run["scores"]["hard"]) for run in found["runs"]["equal"]] == [2, 2]
    assert found["summary"]["equal"].keys() >= {"easy", "hard", "worst", "worst, less the mean's"}


def test_school(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    """Two settings of each method on 15 schools."""
    school, out = import_module("school"), tmp_path / "school.json"
    monkeypatch.setattr(
        school, "GRIDS", {method: grid[3:8:4] for method, grid in school.GRIDS.items()}
    )
    tasks = qs.datasets.load_named_tasks("school", shared_data)
    tasks = tasks.only(list(tasks)[:15])
    monkeypatch.setattr(qs.datasets, "load_named_tasks", lambda *_: tasks)
    monkeypatch.setattr(school, "SCHOOLS", 5)
    for _ in range(2):  # the second has nothing left to do
        call("school", monkeypatch, "known", "new", "--repeats", "1", "--out", out)
    results = json.loads(out.read_text())
    known, new = results["known"]["summary"], results["new"]["summary"]
    assert len(results["known"]["repeats"]) == 1
    assert 0.1 < known["mean-regularised"]["explained_variance"] < 0.6
    assert new["mean-regularised"]["gain_over_single"]["schools"] == 5


def test_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of fewer tasks; over 10, results/pulled.json, no ratio is above 1."""
    pulled, out = import_module("pulled"), tmp_path / "pulled.json"
    monkeypatch.setattr(pulled, "PENALTIES", [0.1, 3.0, 100.0])
    monkeypatch.setattr(pulled, "TASKS", 12)
    call("pulled", monkeypatch, "--draws", "2", "--out", out)
    worlds = json.loads(out.read_text())["worlds"]
    assert worlds["alike"]["better"] == "together"
    assert worlds["unlike"]["better"] == "alone"
    assert worlds["three clusters"]["ratio"] < 1.01


def test_relations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six tasks in two clusters and a harmful one, of many rows: all is found in one network."""
    relations, out = import_module("relations"), tmp_path / "relations.json"
    for name, value in {"TASKS": 6, "CLUSTERS": 2, "HARMFUL": 1, "TARGETS": 2}.items():
        monkeypatch.setattr(relations, name, value)
    call("relations", monkeypatch, "--seeds", 1, "--rows", 200, "--steps", 2, "--out", out)
    found = json.loads(out.read_text())["rows"]["200"]
    assert found["cosine, one network"]["ari_k_known"]["seeds"] == [1.0]
    assert found["cosine, one network"]["auc"]["seeds"] == [1.0]
    assert set(found["negative_transfer"]) == {"auc"}


def test_tox21(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up molecules of three assays, some of whose labels are unknown."""
    out, tox21 = tmp_path / "tox21.json", import_module("tox21")
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(120, 16, generator=generator) < 0.5).float()
    labels = inputs[:, :3].clone()
    labels[torch.rand(120, 3, generator=generator) < 0.2] = torch.nan
    tasks = qs.tasks.columns(inputs, labels, ["a", "b", "c"])
    monkeypatch.setattr(tox21, "load", lambda *_: tasks)
    monkeypatch.setattr(tox21, "PASSES", (1, 2))
    methods = ("single logistic", "single networks", "one network of 12 labels", "HardSharing")
    words = ("--root", tmp_path, "--seeds", "1", "--out", out, "--methods", *methods)
    call("tox21", monkeypatch, *words)
    found = json.loads(out.read_text())
    assert set(found["scores"]) == set(methods)
    assert found["scores"]["single logistic"]["0"]["mean"] > 0.9, "each label is a column"
    x, y = tox21.table_of(tasks)
    some = ~labels.isnan().all(1)
    torch.testing.assert_close((x, y), (inputs[some], labels[some]), equal_nan=True)


def test_multi_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up pictures: parts have different pictures, and both tasks the same rows."""
    script, out = import_module("multi_fashion"), tmp_path / "fashion.json"
    pictures = torch.arange(10_000.0)[:, None, None].expand(-1, 28, 28) / 10_000
    classes = torch.arange(10_000) % 10
    parts = script.parts(pictures, classes, seed=0, share=0.02)
    seen = [
        {*part["pictures"][:, 0, 0, 0].tolist(), *part["pictures"][:, 0, -1, -1].tolist()}
        for part in parts.values()
    ]
    assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])
    left, right, *_ = script.batches(parts["train"], script.TASKS, 1, seed=0).tasks
    assert torch.equal(left.query.inputs, right.query.inputs)
    assert [left.spec.name, right.spec.name] == ["left", "right"]
    monkeypatch.setattr(script, "garments", lambda _: (pictures, classes))
    few = ("--seeds", "2", "--epochs", "1", "--share", "0.02", "--out", out)
    names = ("single", "equal", "mgda")
    pytest.importorskip("torchjd")
    call("multi_fashion", monkeypatch, "--root", tmp_path, *few, "--methods", *names)
    table = json.loads(out.read_text())["table"]
    assert set(table) == set(names)
    assert len(table["mgda"]["seeds"]) == 2


def test_multitask_and_meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, script = tmp_path / "orders.json", import_module("multitask_and_meta")
    schools = qs.tasks.related(8, rows=40, features=6).tasks
    monkeypatch.setattr(script, "HELD_OUT", 2)
    monkeypatch.setattr(script, "PENALTIES", (10.0,))
    monkeypatch.setattr(qs.datasets, "load_named_tasks", lambda *_: schools)
    call("multitask_and_meta", monkeypatch, "--root", tmp_path, "--seeds", "2", "--steps", "2",
         "--out", out)  # fmt: skip
    table = json.loads(out.read_text())["table"]
    assert set(table) == {"single ridge", *script.ORDERS}
    assert table["single ridge"]["known"]["mean"] > 0.3


def test_recommend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up tasks with names; a second call goes on where the first one stopped."""
    script, out = import_module("recommend"), tmp_path / "recommend.json"
    x = torch.randn(8, 20, 2, generator=torch.Generator().manual_seed(0))
    tasks = qs.tasks.domains({str(k): (x[k], x[k] @ torch.ones(2, 1), qs.regression())
                              for k in range(8)})  # fmt: skip
    monkeypatch.setitem(script.CASES, "school", script.Case(lambda root: tasks, {}, 1))
    words = ("school", "--steps", "4", "--truth-steps", "4", "--seeds", "1", "--out", out)
    call("recommend", monkeypatch, *words)
    found = json.loads(out.read_text())["school"]
    means = {name: each["mean"] for name, each in found["truth"].items()}
    assert found["best"] == min(means, key=means.__getitem__)
    alone = min(m for n, m in means.items() if found["truth"][n]["family"] == "target only")
    lost = (means[found["chosen"]] - means[found["best"]]) / alone
    assert found["regret"] == pytest.approx(lost, abs=1e-6)
    assert found["regret"] < 0.02
    assert all(len(each["scores"]) == 8 for each in found["truth"].values())
    del found["truth"]["pooled"]
    out.write_text(json.dumps({"school": found}))
    monkeypatch.setattr(qs, "recommend", None, raising=False)  # known already
    call("recommend", monkeypatch, *words)
    again = json.loads(out.read_text())["school"]
    assert set(again["truth"]) == set(means)


def test_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part with little work; a second call measures what is missing alone."""
    out, script = tmp_path / "questions.json", import_module("questions")
    rows = random_classes(classes=6, rows=16, side=28)
    data = qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)
    monkeypatch.setattr(qs.datasets, "load", lambda name: data)
    small = {"TEST_TASKS": 2, "STOPS": (4, 8), "CLASSES": (), "CLASS_TASKS": 4, "WIDTHS": (2,),
             "DEPTHS": (5,), "SIZE_TASKS": 4, "KNOWN": (3,), "NEW": 2,
             "SINUSOID_STEPS": 2}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    call("questions", monkeypatch, "--out", out)
    found = json.loads(out.read_text())
    assert [len(found[part]) for part in script.PARTS] == [len(script.METHODS), 6, 4, 2]
    assert [row["train_tasks"] for row in found["growing"][:3]] == [0, 4, 8]
    assert all(len(row["errors"]["new"]) == 2 for row in found["one_set"])
    del found["size"][0]
    out.write_text(json.dumps(found))
    call("questions", monkeypatch, "size", "--out", out)
    again = json.loads(out.read_text())
    assert len(again["size"]) == 4
    assert again["size"][:3] == found["size"]


def test_heterogeneity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up colour pictures of 8 pixels: grey, 28 wide, and every mixture is trained."""
    out, script = tmp_path / "kinds.json", import_module("heterogeneity")
    rows = random_classes(classes=6, rows=8, side=8)
    made = qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)
    monkeypatch.setattr(qs.datasets, "load", lambda *_: made)
    assert script.grey(made)["train"].inputs.shape[1:] == (1, 28, 28)
    assert all(isinstance(make(), qs.Learner) for make, _, _ in script.LEARNERS.values())
    call("heterogeneity", monkeypatch, "--kinds", "glyphs", "emoji", "--learners", "Prototypical",
         "--steps", "1", "--tasks", "3", "--seeds", "2", "--out", out)  # fmt: skip
    table = json.loads(out.read_text())["table"]
    assert [row["mixed"] for row in table] == [1, 2]
    assert table[0]["change on the first"]["mean"] == 0
    assert len(table[1]["emoji"]["seeds"]) == 2


def test_detection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a folder of tiles in place of the playing cards, with small networks."""
    out = tmp_path / "detection.json"
    root = tiles(tmp_path / "own", [["green", "red"], ["red", "green"], ["blue"], ["green"]] * 3)
    words = "--data own --shots 1 --draws 1 --set size=64 seen=64 crop=32 steps=2 batch=2"
    call("detection", monkeypatch, "--root", root, *words.split(), "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["learner"] for row in rows] == [
        "objects of any class", "crop_detection", "two_stage_detection", "crop_prototypes",
    ]  # fmt: skip
    assert all(row["split"] == 0 and row["new"] == ["blue"] for row in rows)
    assert all(len(row["novel AP50"]) == len(row["base AP50"]) == 1 for row in rows[1:])


def test_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up fingerprints of two families of assays, whose actives are single bits."""
    pytest.importorskip("rdkit")
    from quickstudy.datasets.assays import AssayTable

    out, molecules = tmp_path / "molecules.json", import_module("molecules")
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand(400, 2048, generator=generator) < 0.3).float()
    labels = counts[:, :5].clone()
    labels[torch.rand(400, 5, generator=generator) < 0.1] = torch.nan
    table = AssayTable(
        tuple(map(str, range(400))), {"counts": counts}, labels,
        ("ATG_a", "ATG_b", "ATG_c", "APR_d", "APR_e"),
    )  # fmt: skip
    monkeypatch.setattr(molecules, "load_assays", lambda *_, **__: table)
    monkeypatch.setattr(molecules, "MORE", 16)
    methods = (molecules.FOREST, molecules.MAHALANOBIS, molecules.ENSEMBLE)
    words = ("--root", tmp_path, "--steps", "2", "--draws", "2", "--out", out, "--shots", "16")
    call("molecules", monkeypatch, *words, "--methods", *methods)
    found = json.loads(out.read_text())
    assert found["settings"]["molecules"] == [240, 160]
    of_shots = found["scores"]["16"]
    assert set(of_shots) == set(methods)
    assert {name: len(draws) for name, draws in of_shots["forest"].items()} == {
        "APR_d": 2, "APR_e": 2
    }  # fmt: skip
    row = found["table"]["16"]["rank ensemble"]
    expected = torch.tensor(
        [of_shots[m][a] for m in ("rank ensemble", "forest") for a in of_shots[m]]
    )
    gain = expected[:2].mean((0, 1)) - expected[2:].mean((0, 1))
    assert row["ΔAUPRC above forest"] == pytest.approx(float(gain[0]), abs=1e-4)
    assert row["ROC-AUC above forest"] == pytest.approx(float(gain[1]), abs=1e-4)


def test_speech(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, few = tmp_path / "speech.json", "--steps 1 --tasks 2 --size 16 --splits both"
    call("speech", monkeypatch, "--root", shared_data, *few.split(), "--out", out)
    results = json.loads(out.read_text())
    assert len(results) == 6
    assert all(len(row["scores"]) == 2 for row in results.values())


def test_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts, on made-up drawings: each kind of row has a score for every task."""
    import_module("generation")
    counts = torch.full((40,), 20)
    inputs = torch.randint(256, (800, 1, 14, 14), generator=torch.Generator().manual_seed(0))
    drawings = qs.LabelledRows(inputs.to(torch.uint8), counts, tuple(map(str, range(40))))
    data = SimpleNamespace(train=drawings, val=drawings, test=drawings)
    monkeypatch.setattr(qs.datasets, "load", lambda *args, **options: data)
    out, few = tmp_path / "generation.json", ["--root", "none", "--steps", 1, "--tasks", 2]
    for part in ("completion", "samples"):
        call("generation", monkeypatch, part, *few, "--out", out)
    results = json.loads(out.read_text())
    assert len(results) == 5 + 4
    assert all(len(row["scores"]) == 2 for row in results.values())
    assert results["samples given drawings"]["distance"] > 0.2  # not from themselves
