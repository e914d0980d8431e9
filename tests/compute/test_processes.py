"""Tasks shared among processes: the same results, whatever happens to one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones.norms import promised_alike, rows_count_alike
from quickstudy.compute.engine import Mapping, Plan, accumulate
from quickstudy.compute.memory import accumulate_within
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.files.storage import load_tree
from quickstudy.objectives import Objective, query_loss
from quickstudy.tasks.stacks import stack
from quickstudy.training import processes
from quickstudy.training.explain import explain
from quickstudy.training.plan import make_plan
from quickstudy.training.processes import WorkerEnded, refuse_processes, shared_out
from witness import error, flat

PLAN = Plan(Mapping.LOOP, "so", 5, workers=2, processes=True)


@pytest.fixture(autouse=True, scope="module")
def _ended_at_last() -> Iterator[None]:
    yield
    processes._end()


def maml() -> qs.MAML:
    torch.manual_seed(0)
    return qs.MAML(qs.backbones.Conv4(8, "batch", outputs=3), 2, 0.1)


def pictures(count: int) -> list[Task]:
    source = qs.episodes(random_classes(), 3, 1, 2)
    return [doubled(source(torch.Generator().manual_seed(seed))) for seed in range(count)]


def gradients(learner: Learner) -> Tensor:
    return flat([p.grad for p in learner.parameters() if p.grad is not None])


def elsewhere(parent: int) -> bool:
    return os.getpid() != parent


@pytest.mark.parametrize("made", [maml, lambda: qs.Prototypical(qs.backbones.Conv4(8))])
def test_the_gradient_is_that_of_a_loop(made: Any) -> None:
    batch, learner, expected = stack(pictures(5)), made().double(), made().double()
    expected.load_state_dict(learner.state_dict())
    mean = lambda learner, task: query_loss(learner, task).loss * 2  # noqa: E731  (of no module)
    outcome = accumulate(learner, batch, mean, PLAN)
    losses = accumulate(expected, batch, mean, replace(PLAN, workers=1, processes=False)).loss
    assert error(outcome.loss, losses) <= 1e-12
    assert error(gradients(learner), gradients(expected)) <= 1e-12
    again = made().double()
    again.load_state_dict(learner.state_dict())
    accumulate(again, batch, mean, PLAN)
    assert gradients(again).equal(gradients(learner)), "to the bit"


def in_plain_attention(learner: Learner, task: Task) -> Any:
    assert not torch.backends.cuda.flash_sdp_enabled()
    return query_loss(learner, task)


def test_attention_can_be_differentiated_twice_in_each() -> None:
    accumulate(maml().double(), stack(pictures(2)), in_plain_attention, PLAN)


def seen(learner: Learner, tasks: Sequence[Task]) -> dict[str, Any]:
    print("what is printed disturbs nothing")
    return {
        "process": os.getpid(),
        "tasks": len(tasks),
        "threads": torch.get_num_threads(),
        "alike": promised_alike(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.zeros(()).dtype,
        "progress": learner.progress,
        "training": learner.training,
        "noise": float(torch.rand(())),
    }


def test_each_worker_is_a_process_in_the_same_circumstances() -> None:
    learner, threads = maml().eval(), torch.get_num_threads()
    learner.progress = 0.25
    facts = shared_out(seen, learner, pictures(5), 3)
    assert [f["tasks"] for f in facts] == [2, 2, 1]
    assert facts[0]["process"] == os.getpid()
    assert len({f["process"] for f in facts}) == 3
    assert {f["threads"] for f in facts} == {1}
    assert torch.get_num_threads() == threads
    assert {(f["progress"], f["training"], f["gradients"], f["alike"]) for f in facts} == {
        (0.25, False, True, False)
    }
    assert len({f["noise"] for f in facts}) == 3, "each draws its own numbers"
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), rows_count_alike():
            others = shared_out(seen, learner, pictures(3), 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {(f["dtype"], f["gradients"], f["alike"]) for f in others} == {
        (torch.float64, False, True)
    }
    assert [f["process"] for f in others] == [f["process"] for f in facts], "they were kept"
    assert shared_out(seen, learner, pictures(1), 3)[0]["process"] == os.getpid()


class Strange(Exception):
    def __init__(self, first: str, second: str) -> None:  # which pickling cannot make again
        super().__init__(first + second)


def test_errors_arrive_and_the_next_step_is_none_the_worse() -> None:
    parent, learner, tasks = os.getpid(), maml(), pictures(2)

    def fail(_: Learner, given: Sequence[Task]) -> None:
        if elsewhere(parent):
            raise ArithmeticError("of a worker")

    def fail_strangely(_: Learner, given: Sequence[Task]) -> None:
        if elsewhere(parent):
            raise Strange("of a", " strange kind")

    def fail_here(_: Learner, given: Sequence[Task]) -> int:
        if not elsewhere(parent):
            raise ArithmeticError("here")
        return -1

    with pytest.raises(ArithmeticError, match="of a worker") as told:
        shared_out(fail, learner, tasks, 2)
    assert "in fail" in told.value.__notes__[0], "where it was raised"
    with pytest.raises(RuntimeError, match="Strange: of a strange kind"):
        shared_out(fail_strangely, learner, tasks, 2)
    with pytest.raises(ArithmeticError, match="here"):
        shared_out(fail_here, learner, tasks, 2)
    assert [f["tasks"] for f in shared_out(seen, learner, tasks, 2)] == [1, 1]


def test_a_worker_that_is_killed_is_told() -> None:
    parent = os.getpid()

    def end(_: Learner, given: Sequence[Task]) -> None:
        if elsewhere(parent):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerEnded, match=r"status -9 .*fewer workers"):
        shared_out(end, maml(), pictures(2), 2)


def test_where_memory_runs_out_fewer_tasks_are_computed_at_a_time() -> None:
    parent, batch, learner, expected = os.getpid(), stack(pictures(3)), maml(), maml()
    learner, expected = learner.double(), expected.double()

    def greedy(learner: Learner, task: Task) -> Any:
        if elsewhere(parent):
            torch.empty(1 << 58)
        return query_loss(learner, task)

    with pytest.warns(UserWarning, match="with 2 tasks at a time; 1 from now on"):
        _, fitting = accumulate_within(learner, batch, greedy, PLAN)
    assert fitting == replace(PLAN, workers=1)
    assert "processes" not in str(fitting)
    accumulate(expected, batch, query_loss, fitting)
    assert gradients(learner).equal(gradients(expected))


def test_what_cannot_be_sent_is_refused_before_training(tmp_path: Path) -> None:
    lock, source = threading.Lock(), qs.episodes(random_classes(), 3, 1, 2)

    def locked(learner: Learner, task: Task) -> Any:
        with lock:
            return query_loss(learner, task)

    with pytest.raises(ValueError, match=r"cannot be: .*lock.* workers are threads"):
        qs.fit(maml(), source, 1, 2, objective=locked, workers=2, processes=True, run=tmp_path,
               progress=False)  # fmt: skip
    assert not list(tmp_path.glob("checkpoint*"))
    with pytest.raises(ValueError, match=r"workers=1. Give workers=2"):
        qs.fit(maml(), source, 1, 2, processes=True, progress=False)
    with pytest.raises(ValueError, match="the learner is on meta"):
        refuse_processes(maml().to("meta"), 2)
    hooked = maml()
    next(hooked.parameters()).register_hook(lambda gradient: 0 * gradient)
    with pytest.raises(ValueError, match="hooks on gradients stay in this process"):
        refuse_processes(hooked, 2)


def fitted(steps: int, folder: Path | None = None, **more: Any) -> tuple[Learner, Any]:
    learner, source = maml(), qs.episodes(random_classes(), 3, 1, 2)
    objective: Objective = more.pop("objective", query_loss)
    training = qs.fit(learner, source, steps, 3, objective=objective, run=folder, progress=False,
                      **more)  # fmt: skip
    return learner, training


def test_fit_uses_them_and_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    learner, training = fitted(4, workers=2, processes=True)
    assert training.plan.processes
    assert "loop in processes, 2 tasks at a time" in str(training.plan)
    assert not processes._workers, "they ended with training"
    calls = 0

    def break_off(learner: Learner, task: Task) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6:  # one before training, and two of each step
            raise KeyboardInterrupt
        return query_loss(learner, task)

    break_off.__qualname__ = "query_loss"  # a resumed run has the objective that it began with
    with pytest.raises(KeyboardInterrupt):
        fitted(4, tmp_path, workers=2, processes=True, objective=break_off, checkpoint_every=1)
    assert not processes._workers
    _, about = load_tree(tmp_path / "checkpoint.safetensors")
    assert 0 < about["progress"]["step"] < 4
    assert about["progress"]["plan"]["processes"] is True
    resumed, training = fitted(4, tmp_path, resume=True)
    assert training.plan.processes, "the plan that it was started by"
    for name, value in learner.state_dict().items():
        assert resumed.state_dict()[name].equal(value), name


def test_a_plan_and_its_explanation_say_so() -> None:
    source = qs.episodes(random_classes(), 3, 1, 2)
    assert "workers    2 processes" in explain(maml(), source, 4, workers=2, processes=True)
    with pytest.raises(ValueError, match="workers=1"):
        explain(maml(), source, 4, processes=True)
    small = make_plan(maml(), stack(pictures(2)), query_loss, 4, "loop", 1, 2, processes=True)
    assert (small.workers, small.processes) == (1, False)
    old = {k: v for k, v in PLAN.to_json().items() if k != "processes"}
    assert Plan.from_json(old) == replace(PLAN, processes=False), "of an earlier version"
    assert Plan.from_json(PLAN.to_json()) == PLAN


SCRIPT = """
import os, sys, time
import torch
import quickstudy as qs
from quickstudy.objectives import query_loss
from quickstudy.training import processes

class Own(qs.Prototypical):
    pass

def source(generator):
    inputs = torch.rand(6, 4, generator=generator)
    rows = qs.examples(inputs, torch.tensor([0, 1, 2, 0, 1, 2]))
    return qs.Task(rows, rows, qs.classification(3))

parent = os.getpid()

def slow(learner, task):
    if os.getpid() != parent:
        time.sleep(0.1)
    elif processes._workers:
        print(processes._workers[0]._process.pid, flush=True)
    return query_loss(learner, task)

training = qs.fit(Own(qs.backbones.MLP(4, (3,))), source, int(sys.argv[1]), 2, engine="loop",
                  objective=slow, workers=2, processes=True, run=sys.argv[2], progress=False)
print("finished", training.finished, flush=True)
"""


def started(folder: Path, steps: int) -> tuple[subprocess.Popen[str], int]:
    """A script that has begun to train, and its other process."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(steps), str(folder / "run")], text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True  # it ended; who adopted it has not looked
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_a_script_needs_no_guard_and_an_interrupt_ends_it_in_order(tmp_path: Path) -> None:
    process, other = started(tmp_path, 1000)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    output, _ = process.communicate(timeout=60)
    assert output.endswith("finished False\n")
    assert process.returncode == 0
    assert gone(other)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


@linux
def test_none_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    process, other = started(tmp_path, 1000)
    process.kill()
    process.communicate(timeout=60)
    assert gone(other)
