"""Compiled code gives the gradient of the loop, or is not used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones import MLP, Conv4
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import GRADIENT_MAKERS, accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.files.trees import load_tree
from quickstudy.learners.gradient.meta_gradients import Annealed
from quickstudy.objectives import query_loss
from quickstudy.tasks.stacks import stack
from quickstudy.training.plan import make_plan
from witness import as_step, error, flat, in_general_position, vectors_task

LEARNERS: dict[str, Callable[[], Learner]] = {
    "prototypical": lambda: qs.Prototypical(MLP(24, (8,))),
    "maml": lambda: qs.MAML(MLP(24, (8,), outputs=3), rate=0.1),
}
EVERY = [
    ("prototypical", Mapping.VMAP), ("maml", Mapping.VMAP_GRAD), ("maml", Mapping.TASK_AXIS),
]  # fmt: skip


def made(name: str) -> Learner:
    torch.manual_seed(0)
    learner = LEARNERS[name]().double()
    in_general_position(learner)
    return learner


def five_tasks() -> list[Task]:
    tasks = [vectors_task(seed) for seed in range(5)]
    for task in tasks[:2]:
        task.support.weights[1] = 0.0
    return tasks


def gradient_of(
    learner: Learner, batch: Task, plan: Plan, compiled: CompiledGradients | None = None
) -> tuple[Tensor, Tensor]:
    learner.zero_grad()
    outcome = accumulate(learner, as_step(learner, batch), query_loss, plan, compiled)
    return flat([p.grad for p in learner.parameters() if p.grad is not None]), outcome.loss


def code(learner: Learner, like: Task, mapping: Mapping) -> CompiledGradients:
    return CompiledGradients(learner, query_loss, like, GRADIENT_MAKERS[mapping])


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without the last stage, the C++ compiler, which takes most of the time."""

    def almost(operators: Callable[..., Any], *, options: Any, **same: Any) -> Callable[..., Any]:
        compiled: Callable[..., Any] = torch_compile(operators, backend="aot_eager", **same)
        return compiled

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", almost)


@pytest.mark.parametrize(("name", "mapping"), EVERY)
def test_traced_code_gives_the_gradient_of_the_loop(
    name: str, mapping: Mapping, without_kernels: None
) -> None:
    compare_with_loop(name, mapping)


def test_compiled_kernels_give_the_gradient_of_the_loop() -> None:
    compare_with_loop("maml", Mapping.TASK_AXIS)


def compare_with_loop(name: str, mapping: Mapping) -> None:
    learner, batch = made(name), stack(five_tasks())
    compiled, plan = code(learner, batch, mapping), Plan(mapping, "", 5)
    for _ in range(2):  # weights are its inputs, not constants in it
        expected, losses = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 5))
        gradient, found = gradient_of(learner, batch, plan, compiled)
        assert error(gradient, expected) <= 1e-10
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-12)
        in_general_position(learner)


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the traced operators without compiling them, which takes seconds."""
    monkeypatch.setattr(torch, "compile", lambda operators, **_: operators)


def test_code_for_uniform_weights_is_not_used_for_others(not_built: None) -> None:
    """Operators traced while all rows had equal weights must not be used where they do not."""
    torch.manual_seed(0)
    learner = qs.Prototypical(Conv4(4, "batch", image_size=16)).double()
    in_general_position(learner)
    source = qs.episodes(random_classes(), 3, 1, 2)
    tasks = [doubled(source(torch.Generator().manual_seed(seed))) for seed in range(2)]
    batch, other = stack(tasks), stack(tasks)
    other.query.weights[0, 0] = 0.0
    compiled = code(learner, batch, Mapping.VMAP)
    for rows in (batch, other, batch):
        expected, _ = gradient_of(learner, rows, Plan(Mapping.LOOP, "", 2))
        found, _ = gradient_of(learner, rows, Plan(Mapping.VMAP, "", 2), compiled)
        assert error(found, expected) <= 1e-9


@pytest.mark.parametrize(("name", "mapping"), EVERY)
def test_unused_parameters_stay_without_gradient(
    name: str, mapping: Mapping, not_built: None
) -> None:
    learner, batch = made(name), stack(five_tasks())
    unused = learner.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    compiled = code(learner, batch, mapping)
    accumulate(learner, as_step(learner, batch), query_loss, Plan(mapping, "", 5), compiled)
    assert unused.grad is None
    assert all(p.grad is not None for p in learner.parameters() if p is not unused)


@pytest.mark.parametrize(("name", "mapping"), EVERY)
def test_chunks_of_any_size_and_tasks_of_other_sizes(
    name: str, mapping: Mapping, not_built: None
) -> None:
    learner, batch = made(name), stack(five_tasks())
    expected, losses = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 5))
    compiled = code(learner, stack([vectors_task(0)] * 2), mapping)
    for chunk in (2, 3, 5):
        gradient, found = gradient_of(learner, batch, Plan(mapping, "", chunk), compiled)
        assert error(gradient, expected) <= 1e-10
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-12)


def test_tasks_of_other_shapes_are_computed_by_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made("prototypical"), stack(five_tasks())
    compiled = code(learner, stack([vectors_task(0)] * 2), Mapping.VMAP)
    wider = batch._replace(query=type(batch.query)(*(leaf[:, :2] for leaf in batch.query)))
    assert compiled.serves(batch)
    assert not compiled.serves(wider)
    assert not compiled.serves(batch._replace(spec=qs.classification(4)))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    expected, _ = gradient_of(learner, wider, Plan(Mapping.LOOP, "", 5))
    found, _ = gradient_of(learner, wider, Plan(Mapping.VMAP, "", 5), compiled)
    assert error(found, expected) <= 1e-10


class Gated(nn.Module):
    """A network with everything that may change besides the trained weights."""

    gate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net, self.frozen = MLP(24, (8,)), nn.Linear(8, 8).requires_grad_(False)
        self.register_buffer("gate", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.frozen(self.net(x)) * self.gate
        return features if self.training else 2 * features.tanh()


def test_every_change_that_is_noticed_has_its_own_code(not_built: None) -> None:
    torch.manual_seed(0)
    net = Gated()
    learner, batch = qs.Prototypical(net).double(), stack(five_tasks())
    compiled, plan = code(learner, batch, Mapping.VMAP), Plan(Mapping.VMAP, "", 5)
    gradient_of(learner, batch, plan, compiled)

    def replace_buffer() -> None:
        net.gate = torch.linspace(1, 3, 8, dtype=torch.float64)

    def replace_frozen() -> None:
        net.frozen.weight = nn.Parameter(net.frozen.weight.T.clone(), requires_grad=False)

    for change in (
        replace_buffer,
        replace_frozen,
        net.eval,
        lambda: net.frozen.requires_grad_(True),
        lambda: next(net.net.parameters()).requires_grad_(False),
    ):
        change()
        expected, _ = gradient_of(learner, batch, plan)
        found, _ = gradient_of(learner, batch, plan, compiled)
        assert found.shape == expected.shape
        assert error(found, expected) <= 1e-12


def test_where_code_cannot_be_compiled_training_continues_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The small tasks of the proof compile; those of the real size do not."""

    def for_two_alone(operators: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def code(parameters: Any, support: Any, query: Any) -> Any:
            if len(support.weights) > 2:
                raise ArithmeticError("the compiler gave up\nat length")
            return operators(parameters, support, query)

        return code

    monkeypatch.setattr(torch, "compile", for_two_alone)
    ends = []
    for compile, run in ((False, None), (True, tmp_path)):
        torch.manual_seed(0)
        learner = qs.MAML(MLP(outputs=1), rate=0.01)
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            plan = qs.fit(
                learner,
                qs.Sinusoids(5, 5),
                3,
                4,
                run=run,
                compute=qs.Compute(compile=compile),
                progress=False,
            ).plan
        messages = [str(w.message) for w in recorded if "not compiled" in str(w.message)]
        assert len(messages) == compile, "once, not at each step"
        assert not plan.compiled
        ends.append(learner.state_dict())
    assert "since the compiler gave up. Results" in messages[0]
    assert plan.why.endswith("not compiled, since the compiler gave up")
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())
    _, about = load_tree(tmp_path / "checkpoint.safetensors")
    assert replace(Plan.from_json(about["progress"]["plan"], 10**6), kinds=plan.kinds) == plan


# Planning.


def test_wrong_code_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_wrong(operators: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def wrong(*inputs: Any) -> Any:
            gradients, outcome = operators(*inputs)
            return {name: g * (1 + 1e-6) for name, g in gradients.items()}, outcome

        return wrong

    batch, learner = stack([vectors_task(0), vectors_task(1)]), made("maml")
    monkeypatch.setattr(torch, "compile", lambda operators, **_: operators)
    right = make_plan(learner, [batch], query_loss, 4, qs.Compute(compile=True))
    assert (right.mapping, right.compiled) == (Mapping.TASK_AXIS, True)
    assert "compiled" in str(right)
    monkeypatch.setattr(torch, "compile", slightly_wrong)
    plan = make_plan(learner, [batch], query_loss, 4, qs.Compute(compile=True))
    assert (plan.mapping, plan.compiled) == (Mapping.TASK_AXIS, False)
    assert "not compiled, since the meta-gradient of compiled code differs" in plan.why
    with pytest.raises(RuntimeError, match="compile=True is not right for this learner"):
        make_plan(learner, [batch], query_loss, 4, qs.Compute("vmap", compile=True))


def test_what_changes_with_progress_is_not_compiled() -> None:
    batch = stack([vectors_task(0), vectors_task(1)])
    learner = qs.MAML(MLP(24, (8,), outputs=3), 2, 0.1, meta_gradient=Annealed(0.5)).double()
    learner.progress = 0.25
    plan = make_plan(learner, [batch], query_loss, 4, qs.Compute(compile=True))
    assert not plan.compiled
    assert "since MAML changes as training goes on" in plan.why
    assert learner.progress == 0.25


def test_loops_are_not_compiled_and_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, learner = stack([vectors_task(0), vectors_task(1)]), made("maml")
    with pytest.raises(ValueError, match="a loop is not compiled"):
        qs.Compute("loop", compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not make_plan(learner, [batch], query_loss, 4).compiled
    with pytest.raises(ValueError, match="no-such-compiler is not found"):
        make_plan(learner, [batch], query_loss, 4, qs.Compute(compile=True))


# Training.


def train(folder: Path | None, resume: bool, stop_after: int | None = None) -> Learner:
    torch.manual_seed(0)
    learner = qs.MAML(MLP(outputs=1), rate=0.01)
    source, calls = qs.Sinusoids(5, 5), 0

    def stopping(generator: torch.Generator) -> Task:
        nonlocal calls
        calls += 1
        if stop_after and calls > stop_after:
            raise InterruptedError
        return source(generator)

    training = qs.fit(
        learner, stopping, 12, 4, run=folder, resume=resume, checkpoint_every=5,
        compute=qs.Compute(compile=True),
        progress=False,
    )  # fmt: skip
    assert training.plan.compiled
    return learner


def test_a_resumed_run_is_equal_to_the_bit(tmp_path: Path, not_built: None) -> None:
    expected = train(None, resume=False)
    with pytest.raises(InterruptedError):
        train(tmp_path, resume=False, stop_after=45)
    resumed = train(tmp_path, resume=True)
    for name, value in expected.state_dict().items():
        assert resumed.state_dict()[name].equal(value), name


def test_a_compiled_run_is_not_resumed_without_a_compiler(
    tmp_path: Path, not_built: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InterruptedError):
        train(tmp_path, resume=False, stop_after=45)
    monkeypatch.setenv("CXX", "no-such-compiler")
    learner = qs.MAML(MLP(outputs=1), rate=0.01)
    with pytest.raises(ValueError, match="no-such-compiler is not found"):
        qs.fit(learner, qs.Sinusoids(5, 5), 12, 4, run=tmp_path, resume=True, progress=False)


def test_plans_are_read_back_unchanged() -> None:
    """But for the kinds of task, which are found again from the tasks."""
    plan = Plan(Mapping.VMAP, "so", 3, compiled=True, kinds=(("classes", None),))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())), 10**6)
    assert again.kinds == ()
    assert replace(again, kinds=plan.kinds) == plan


def test_tensors_shared_when_code_was_compiled_may_be_separate_later(without_kernels: None) -> None:
    batch, learner = stack(five_tasks()), made("maml")
    same = batch._replace(query=batch.support)
    other = batch._replace(query=batch.support._replace(inputs=batch.support.inputs + 1))
    compiled, plan = code(learner, same, Mapping.TASK_AXIS), Plan(Mapping.TASK_AXIS, "", 5)
    for rows in (same, other):
        expected, _ = gradient_of(learner, rows, Plan(Mapping.LOOP, "", 5))
        assert error(gradient_of(learner, rows, plan, compiled)[0], expected) <= 1e-10


def test_other_threads_and_layouts_have_their_own_code(without_kernels: None) -> None:
    learner, batch = made("maml"), stack(five_tasks())
    compiled, plan = code(learner, batch, Mapping.TASK_AXIS), Plan(Mapping.TASK_AXIS, "", 5)
    gradient_of(learner, batch, plan, compiled)
    threads = torch.get_num_threads()
    for other in (use_three_threads, lambda: store_transposed(learner)):
        try:
            other()
            recompiled = pytest.raises(torch._dynamo.exc.RecompileError)
            with recompiled, torch._dynamo.config.patch(error_on_recompile=True):
                gradient_of(learner, batch, plan, compiled)
            expected, _ = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 5))
            assert error(gradient_of(learner, batch, plan, compiled)[0], expected) <= 1e-10
        finally:
            torch.set_num_threads(threads)


def use_three_threads() -> None:
    torch.set_num_threads(3)


def store_transposed(learner: Learner) -> None:
    for parameter in learner.parameters():
        parameter.data = parameter.data.t().contiguous().t()


def test_autocast_has_its_own_code(not_built: None) -> None:
    learner, batch = made("maml").float(), single(stack(five_tasks()))
    compiled, plan = code(learner, batch, Mapping.TASK_AXIS), Plan(Mapping.TASK_AXIS, "", 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = gradient_of(learner, batch, plan, compiled)
    outside, _ = gradient_of(learner, batch, plan, compiled)
    expected, _ = gradient_of(learner, batch, plan)
    assert error(outside, expected) <= 1e-5
    assert 1e-4 < error(inside, expected) < 1e-1


def single(batch: Task) -> Task:
    support, query = (rows._replace(inputs=rows.inputs.float(), weights=rows.weights.float())
                      for rows in batch[:2])  # fmt: skip
    return Task(support, query, batch.spec)
