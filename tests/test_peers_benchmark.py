"""The comparison with other libraries: correct gradients and complete rows."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from contest.contenders import CONTENDERS, OURS, Contender  # noqa: E402
from contest.oracle import meta_gradient, relative_error  # noqa: E402
from contest.report import chart, report  # noqa: E402
from contest.turns import Row, Worker, contest, summary  # noqa: E402
from contest.work import (  # noqa: E402
    WORKLOADS,
    Method,
    NotOffered,
    Weights,
    Workload,
    initial_weights,
    make_tasks,
)

SMALL = {
    "maml": Workload("", "", Method.MAML, 3, (2, 16), 3, 1, 2, channels=4, steps=2, rate=0.4),
    "fomaml": Workload("", "", Method.FOMAML, 3, (2, 16), 3, 1, 2, channels=4, steps=2, rate=0.4),
    "prototypical": Workload("", "", Method.PROTOTYPICAL, 3, (2, 16), 3, 2, 2, channels=4),
    "reptile": Workload("", "", Method.REPTILE, 3, (2, 16), 5, 1, 3, channels=4, steps=2, rate=0.1),
    "sinusoid": replace(WORKLOADS["sinusoid_maml"], tasks=3),
}
BY_NAME = {contender.name: contender for contender in CONTENDERS}
ALWAYS_HERE = (OURS, "quickstudy, 1 worker", "plain loop")
EAGER = [name for name in BY_NAME if name != "quickstudy, compiled"]  # compiling takes minutes


def gradients(contender: Contender, work: Workload) -> Weights:
    weights = {name: w.double() for name, w in initial_weights(work).items()}
    return contender.prepare()(work, weights, make_tasks(work).to(torch.float64))()


def right(work: Workload, squared_distances: bool = True) -> Weights:
    return meta_gradient(work, initial_weights(work), make_tasks(work), squared_distances)


@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("name", EAGER)
def test_every_contender_computes_the_requested_gradient(name: str, work: Workload) -> None:
    contender = BY_NAME[name]
    try:
        torch.set_default_dtype(torch.float64)
        found = gradients(contender, work)
    except ImportError as error:
        assert name not in ALWAYS_HERE
        pytest.skip(f"{name} is not installed: {error}")
    except NotOffered as error:
        assert name not in ALWAYS_HERE
        pytest.skip(str(error))
    finally:
        torch.set_default_dtype(torch.float32)
    assert relative_error(found, right(work, contender.squared_distances)) < 1e-10


def test_a_first_order_gradient_is_not_accepted_as_exact() -> None:
    found = gradients(BY_NAME["plain loop"], SMALL["fomaml"])
    assert relative_error(found, right(SMALL["maml"])) > 1e-2


def test_the_reference_gradient_equals_central_differences() -> None:
    """Central differences along one direction, of a step that uses no second derivative."""
    work = SMALL["sinusoid"]
    weights = {n: w.double() for n, w in initial_weights(work).items()}
    direction = {n: torch.randn_like(w) for n, w in weights.items()}

    def mean_loss(distance: float) -> float:
        total = 0.0
        for task in make_tasks(work).to(torch.float64).each():
            moved = {n: w + distance * direction[n] for n, w in weights.items()}
            leaves = [w.requires_grad_() for w in moved.values()]
            inner = (perceptron(moved, task.support) - task.support_targets).square().mean()
            inner_gradients = torch.autograd.grad(inner, leaves)
            steps = zip(moved.items(), inner_gradients, strict=True)
            fast = {n: w.detach() - work.rate * s for (n, w), s in steps}
            outer = (perceptron(fast, task.query) - task.query_targets).square().mean()
            total += float(outer) / work.tasks
        return total

    found = (mean_loss(1e-5) - mean_loss(-1e-5)) / 2e-5
    gradient = right(work)
    expected = sum(float((gradient[n] * direction[n]).sum()) for n in gradient)
    assert found == pytest.approx(expected, rel=1e-6)


def perceptron(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    for layer in ("layers.0", "layers.2"):
        x = (x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]).clamp_min(0)
    return x @ weights["head.weight"].T + weights["head.bias"]


def test_contenders_are_timed_or_have_a_reason() -> None:
    absent = Contender("absent", "no_such_file.loop")
    rows = contest(SMALL["sinusoid"], [BY_NAME[OURS], absent], rounds=2)
    ours, missing = summary(SMALL["sinusoid"], rows)
    assert "cannot be imported" in missing["missing"]
    assert "no_such_file" in missing["missing"]
    assert ours["errors"]["float64"] < 1e-12
    assert 1e-12 < ours["errors"]["float32"] < 1e-4
    assert len(ours["seconds_per_step"]) == 2
    assert ours["tasks_per_second"] > 0
    assert ours["quickstudy_is_faster"]["ratio_of_medians"] == 1


def test_a_wrong_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contest.turns.relative_error", lambda found, expected: 0.03)
    (row,) = contest(SMALL["sinusoid"], [BY_NAME["plain loop"]], rounds=2)
    assert row.missing == "wrong: its meta-gradient is off by 3e-02 in float64"
    assert not row.seconds


def test_a_process_that_ends_is_reported_as_a_reason() -> None:
    worker = Worker(BY_NAME[OURS], SMALL["sinusoid"], "/bin/false")
    assert "ended with status 1" in worker.request("ready")["missing"]
    worker.close()


def test_a_ratio_is_of_medians_with_its_spread_over_rounds() -> None:
    rows = [Row(OURS, seconds=[1.0, 2.0, 3.0]), Row("other", seconds=[2.0, 6.0, 12.0])]
    ours, other = summary(replace(SMALL["sinusoid"], tasks=10), rows)
    assert (ours["tasks_per_second"], other["tasks_per_second"]) == (5, round(10 / 6, 3))
    assert other["quickstudy_is_faster"] == {
        "ratio_of_medians": 3, "quartile_1": 2, "quartile_3": 4,
    }  # fmt: skip


def test_a_report_names_all_contenders_and_plots_the_timed_ones(tmp_path: Path) -> None:
    work = WORKLOADS["maml_28_1_step"]
    rows = [
        Row(OURS, seconds=[1.0, 1.0], peak_mib=300, before_mib=200),
        Row("higher", seconds=[2.0, 2.0], peak_mib=320, before_mib=200, errors={"float64": 2e-15}),
        Row("easyfsl", missing="easyfsl has no MAML"),
    ]
    result = {"workload": work.to_json(), "contenders": summary(work, rows)}
    text = report([result])
    assert re.search(r"\| higher +\| 16.0 +\| 2.00 .2.00 to 2.00. +\| +120 \| 2e-15", text)
    assert "Not measured: easyfsl (easyfsl has no MAML)." in text
    chart([result], tmp_path / "ratios.svg")
    drawn = (tmp_path / "ratios.svg").read_text()
    assert "higher" in drawn
    assert "easyfsl" not in drawn


def test_a_workload_can_be_sent_to_a_worker() -> None:
    for work in (*WORKLOADS.values(), *SMALL.values()):
        assert Workload.from_json(json.loads(json.dumps(work.to_json()))) == work


def test_peers_need_no_quickstudy() -> None:
    """So that an interpreter without it can run them."""
    ours = ("ours.py", "without.py")
    files = [BENCHMARKS / "contest/work.py", BENCHMARKS / "contest/worker.py"]
    files += [f for f in (BENCHMARKS / "contest/contenders").glob("*.py") if f.name not in ours]
    assert len(files) > 8
    for file in files:
        assert not re.search(r"^\s*(import|from) quickstudy", file.read_text(), re.MULTILINE), file
