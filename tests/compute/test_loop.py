"""Tasks shared among threads: the same results, in order, and no side effects."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import random_classes
from quickstudy.compute.engine import accumulate
from quickstudy.compute.loop import in_task_order, map_in_threads
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import query_loss
from quickstudy.tasks.stacks import stack
from witness import as_step


def learner() -> qs.MAML:
    torch.manual_seed(0)
    return qs.MAML(qs.backbones.Conv4(8, "batch", outputs=3), 2, 0.1)


def tasks(count: int) -> list[Task]:
    source = qs.episodes(random_classes(), 3, 1, 2)
    return [source(torch.Generator().manual_seed(seed)) for seed in range(count)]


def test_each_worker_has_its_own_module_and_the_same_parameters() -> None:
    shared, meeting = learner(), threading.Barrier(3, timeout=60)

    def work(own: Learner, given: Sequence[Task]) -> tuple[Learner, int, int]:
        meeting.wait()  # returns only if all run at once
        return own, len(given), torch.get_num_threads()

    before = torch.get_num_threads()
    found = map_in_threads(work, shared, tasks(7), 3)
    assert [count for _, count, _ in found] == [3, 2, 2]
    assert [threads for *_, threads in found] == [1, 1, 1]
    assert len({id(own) for own, *_ in found} | {id(shared)}) == 4
    for own, *_ in found:
        assert all(a is b for a, b in zip(own.parameters(), shared.parameters(), strict=True))
    assert torch.get_num_threads() == before


def test_the_first_worker_is_the_calling_thread() -> None:
    def thread(_: Learner, given: Sequence[Task]) -> threading.Thread:
        return threading.current_thread()

    first, *others = map_in_threads(thread, learner(), tasks(3), 3)
    assert first is threading.main_thread()
    assert first not in others


def test_workers_use_the_callers_gradient_mode_and_raise_their_errors() -> None:
    def mode(_: Learner, given: Sequence[Task]) -> bool:
        return torch.is_grad_enabled()

    def fail(_: Learner, given: Sequence[Task]) -> None:
        raise ArithmeticError("of a worker")

    with torch.no_grad():
        assert map_in_threads(mode, learner(), tasks(2), 2) == [False, False]
    assert map_in_threads(mode, learner(), tasks(2), 2) == [True, True]
    with pytest.raises(ArithmeticError, match="of a worker"):
        map_in_threads(fail, learner(), tasks(2), 2)


def test_results_come_in_the_order_of_the_tasks() -> None:
    def seen(_: Learner, given: Sequence[Task]) -> list[Tensor]:
        time.sleep(0.05 * len(given))  # the first worker, with the most tasks, ends last
        return [task.query.inputs for task in given]

    for count in (1, 4, 5, 7):
        given = tasks(count)
        found = in_task_order(map_in_threads(seen, learner(), given, 3))
        for a, b in zip(found, given, strict=True):
            assert torch.equal(a, b.query.inputs)


def test_the_same_number_of_workers_gives_the_same_bits() -> None:
    batch, plan = stack(tasks(5)), Plan(Mapping.LOOP, "", 5, workers=2)
    gradients = []
    for _ in range(3):
        one = learner()
        accumulate(one, as_step(one, batch), query_loss, plan)
        gradients.append([p.grad for p in one.parameters()])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)


def test_fit_uses_the_given_number_of_workers() -> None:
    source = qs.episodes(random_classes(), 3, 1, 2)
    ends = []
    for workers in (1, 2):
        one = learner().double()
        training = qs.fit(
            one, lambda g: doubled(source(g)), 3, 4, compute=qs.Compute("loop", workers=workers),
            progress=False,
        )  # fmt: skip
        assert training.plan.workers == workers
        tasks_at_once = "1 task" if workers == 1 else "2 tasks"
        assert f"loop, {tasks_at_once} at a time" in str(training.plan)
        ends.append(one.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="workers must be 1 or more threads; found 0"):
        qs.Compute(workers=0)
