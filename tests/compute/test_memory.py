"""A step that does not fit in memory is repeated in smaller pieces with the same result; freed
memory is kept, which is tested in a separate process."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.base.errors import out_of_memory
from quickstudy.compute.cost import cost_of_one_task
from quickstudy.compute.engine import accumulate
from quickstudy.compute.memory import TaskTooLarge, accumulate_within
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.contract.laws import BrokenLaw
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.files.trees import load_tree
from quickstudy.objectives import Objective, Outcome, query_loss
from quickstudy.tasks.stacks import stack
from quickstudy.training.plan import make_plan
from quickstudy.training.preflight import check_lawful
from witness import as_step, error, flat, in_general_position, vectors_task

LEARNERS: dict[Mapping, Callable[[], Learner]] = {
    Mapping.VMAP: lambda: qs.Prototypical(MLP(24, (8,))),
    Mapping.VMAP_GRAD: lambda: qs.MAML(MLP(24, (8,), outputs=3), rate=0.1),
}


def made(mapping: Mapping) -> Learner:
    torch.manual_seed(0)
    learner = LEARNERS[mapping]().double()
    in_general_position(learner)
    return learner


def tasks_at_once(mapped: Tensor) -> int:
    if not torch._C._functorch.is_functorch_wrapped_tensor(mapped):
        return 1  # a task of a loop
    while torch._C._functorch.is_functorch_wrapped_tensor(mapped):
        mapped = torch._C._functorch.get_unwrapped(mapped)
    return len(mapped)


def room_for(tasks: int, from_call: int = 1) -> Objective:
    """The query loss on a GPU that has memory for so many tasks at a time."""
    calls = 0

    def objective(learner: Learner, task: Task) -> Outcome:
        nonlocal calls
        calls += 1
        if calls >= from_call and tasks_at_once(task.support.weights) > tasks:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return query_loss(learner, task)

    return objective


def gradients(learner: Learner) -> Tensor:
    return flat([p.grad for p in learner.parameters() if p.grad is not None])


@pytest.mark.parametrize("mapping", LEARNERS)
def test_the_step_is_repeated_with_fewer_tasks_at_a_time(mapping: Mapping) -> None:
    batch = stack([vectors_task(seed) for seed in range(8)])
    learner, expected = made(mapping), made(mapping)
    whole = copy.deepcopy(expected)
    for one in (learner, expected, whole):  # the gradient of an earlier step
        accumulate(one, as_step(one, batch), query_loss, Plan(Mapping.LOOP, "", 8))
    losses = accumulate(expected, as_step(expected, batch), query_loss, Plan(mapping, "", 1)).loss
    accumulate(whole, as_step(whole, batch), query_loss, Plan(mapping, "", 8))
    plan = Plan(mapping, "so", 5)
    with pytest.warns(
        UserWarning, match="out of memory with 5 tasks at a time; 1 from"
    ) as recorded:
        # The first five tasks pass, so their gradient has to be taken back.
        outcome, fitting = accumulate_within(
            learner, as_step(learner, batch), room_for(1, from_call=2), plan
        )
    assert len(recorded) == 1
    assert fitting == replace(plan, chunk=1)
    assert outcome.loss.equal(losses)
    assert gradients(learner).equal(gradients(expected))
    assert error(gradients(learner), gradients(whole)) <= 1e-12


def test_a_loop_that_does_not_fit_uses_fewer_workers() -> None:
    batch, learner, expected = stack([vectors_task(0)] * 4), made(Mapping.VMAP), made(Mapping.VMAP)

    def objective(learner: Learner, task: Task) -> Outcome:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")
        return query_loss(learner, task)

    plan = Plan(Mapping.LOOP, "so", 4, workers=3)
    with pytest.warns(UserWarning, match="with 3 tasks at a time; 1 from now on"):
        _, fitting = accumulate_within(learner, as_step(learner, batch), objective, plan)
    assert fitting == replace(plan, workers=1)
    accumulate(expected, as_step(expected, batch), query_loss, fitting)
    assert gradients(learner).equal(gradients(expected))


def test_one_task_too_large_raises_an_error_with_remedies() -> None:
    batch, learner = stack([vectors_task(0)] * 2), made(Mapping.VMAP)
    with pytest.raises(TaskTooLarge, match=r"one task alone .*2.00 GiB.*recompute=True"):
        accumulate_within(learner, as_step(learner, batch), room_for(0), Plan(Mapping.VMAP, "", 2))


def test_torchs_error_on_a_cpu_is_recognised() -> None:
    def greedy(learner: Learner, task: Task) -> Tensor:
        return torch.empty(1 << 58).sum()

    batch, learner = stack([vectors_task(0)] * 2), made(Mapping.VMAP)
    with pytest.raises(TaskTooLarge):
        accumulate_within(learner, as_step(learner, batch), greedy, Plan(Mapping.LOOP, "", 2))
    with pytest.raises(TaskTooLarge):
        make_plan(learner, [batch], greedy, 2)


def test_other_errors_are_raised_unchanged() -> None:
    def broken(learner: Learner, task: Task) -> Tensor:
        raise RuntimeError("of another kind")

    batch, learner = stack([vectors_task(0)] * 2), made(Mapping.VMAP)
    with pytest.raises(RuntimeError, match="of another kind"):
        accumulate_within(learner, as_step(learner, batch), broken, Plan(Mapping.VMAP, "", 2))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "aoti_torch_empty_strided(2, sizes, strides) API call failed",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_out_of_memory_errors_of_devices_are_recognised(message: str) -> None:
    assert out_of_memory(RuntimeError(message))
    assert not out_of_memory(ValueError(message))
    hiding = TypeError("a compiler that has no words for it")
    hiding.__context__ = RuntimeError(message)
    assert out_of_memory(hiding)
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def no_room_in(*types: torch.dtype) -> Objective:
    def objective(learner: Learner, task: Task) -> Outcome:
        if task.support.inputs.dtype in types:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return query_loss(learner, task)

    return objective


def test_where_the_proof_does_not_fit_the_loop_is_used() -> None:
    two = stack([qs.Sinusoids(5, 5)(torch.Generator().manual_seed(seed)) for seed in range(2)])
    learner, single = qs.MAML(MLP(outputs=1), rate=0.01), no_room_in(torch.float64)
    plan = make_plan(learner, [two], single, 8)
    assert plan.mapping is Mapping.LOOP
    assert plan.why == "the comparison in float64 does not fit in memory"
    assert make_plan(learner, [two], room_for(1), 8).why == plan.why
    with pytest.raises(RuntimeError, match="the comparison in float64 does not fit"):
        make_plan(learner, [two], single, 8, qs.Compute("vmap"))
    assert qs.fit(learner, qs.Sinusoids(5, 5), 1, 2, objective=single, progress=False).finished
    with pytest.raises(TaskTooLarge, match="one task alone"):
        make_plan(learner, [two], no_room_in(torch.float32), 8)


class Wide(nn.Module):
    """Linear features, for which memory is too small in some types."""

    def __init__(self, *types: torch.dtype) -> None:
        super().__init__()
        self.linear, self.types = nn.Linear(24, 8), types

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in self.types:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        features: Tensor = self.linear(x)
        return features


class WeightBlind(qs.Prototypical):
    """Counts rows of weight 0."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        equal = support._replace(weights=torch.ones_like(support.weights))
        return super().adapt(equal, spec)


def test_laws_are_checked_in_a_type_that_fits() -> None:
    task = vectors_task(0)
    support, query = (e._replace(inputs=e.inputs.float(), weights=e.weights.float())
                      for e in task[:2])  # fmt: skip
    single = Task(support, query, task.spec)
    check_lawful(qs.Prototypical(Wide(torch.float64)), single)
    with pytest.raises(BrokenLaw, match="weight 0"):
        check_lawful(WeightBlind(Wide(torch.float64)), single)
    with pytest.raises(TaskTooLarge, match="one task alone"):
        check_lawful(qs.Prototypical(Wide(torch.float64, torch.float32)), single)


def test_training_continues_as_if_the_smaller_plan_had_been_the_first(tmp_path: Path) -> None:
    source = qs.Sinusoids(5, 5)

    def fit(objective: Objective, memory: int | None, run: Path | None) -> tuple[Learner, Plan]:
        torch.manual_seed(0)
        learner = qs.MAML(MLP(outputs=1), rate=0.01)
        training = qs.fit(learner, source, 5, 8, objective=objective, run=run,
                          compute=qs.Compute(memory=memory),
                          progress=False)  # fmt: skip
        return learner, training.plan

    torch.manual_seed(0)
    two = stack([source(torch.Generator().manual_seed(seed)) for seed in range(2)])
    each = cost_of_one_task(qs.MAML(MLP(outputs=1), rate=0.01), two, query_loss).bytes
    expected, small = fit(room_for(8), 2 * each, None)
    with pytest.warns(UserWarning, match="out of memory") as recorded:
        learner, plan = fit(room_for(2), None, tmp_path)
    assert len(recorded) == 1, "once, not at each step"
    assert plan.chunk == small.chunk == 2
    for name, value in expected.state_dict().items():
        assert learner.state_dict()[name].equal(value), name
    _, about = load_tree(tmp_path / "checkpoint.safetensors")
    assert about["progress"]["plan"]["chunk"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(Plan.from_json(about["progress"]["plan"], 10**6), kinds=plan.kinds) == plan


SCRIPT = """
import resource, torch
from quickstudy.compute.memory import keep_freed_memory
print(keep_freed_memory())
for _ in range(20):
    torch.ones(10_000_000).add(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000).add(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is configured only under Linux")
def test_the_second_pass_reuses_memory_unless_the_environment_forbids_it() -> None:
    kept, faults = page_faults()
    if kept == "False":
        pytest.skip("this system's malloc is not glibc's")
    declined, more = page_faults(MALLOC_MMAP_MAX_="65536")
    assert declined == "False"
    assert faults < 1000 < more
