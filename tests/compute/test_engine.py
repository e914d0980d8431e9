"""Mapping, chunking and planning change how a batch is computed, never its results."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import quickstudy as qs
from quickstudy.answers import Reals
from quickstudy.backbones import MLP
from quickstudy.backbones.norms import make_norm
from quickstudy.compute.cost import Cost, cost_of_one_task, cost_over_tasks
from quickstudy.compute.engine import accumulate, map_tasks
from quickstudy.compute.features import embedded
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import kind_of
from quickstudy.contract.laws import BrokenLaw
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.transfer.heads import logistic
from quickstudy.objectives import Objective, Outcome, query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack, unstack
from quickstudy.training import equivalence as proof
from quickstudy.training.plan import make_plan
from quickstudy.training.preflight import check_lawful
from witness import (
    TOLERANCE,
    Weights,
    as_step,
    error,
    flat,
    in_general_position,
    independent_gradient,
    vectors_task,
)

LEARNERS: dict[str, Callable[[], Learner]] = {
    "prototypical": lambda: qs.Prototypical(MLP(24, (8,))),
    "ridge": lambda: qs.LinearProbe(MLP(24, (8,))),
    "logistic": lambda: qs.LinearProbe(MLP(24, (8,)), logistic),
    "maml": lambda: qs.MAML(MLP(24, (8,), outputs=3), steps=2, rate=0.1),
}

FAMILIES = ("prototypical", "maml")
"""One learner whose ``adapt`` takes no gradient, and one whose ``adapt`` does."""


def made(name: str) -> Learner:
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    in_general_position(learner)
    return learner


def five_tasks() -> list[Task]:
    """Of different sizes, so that some are padded."""
    tasks = [vectors_task(seed) for seed in range(5)]
    tasks[1] = tasks[1]._replace(support=Examples(*(leaf[:4] for leaf in tasks[1].support)))
    return tasks


def batched_mappings(learner: Learner) -> tuple[Mapping, ...]:
    if learner.differentiates:
        return Mapping.VMAP_GRAD, Mapping.TASK_AXIS
    return Mapping.VMAP, Mapping.FEATURES


def own_query_loss(learner: Learner, task: Task) -> Outcome:
    """The query loss as a custom objective, which could use more than predictions."""
    return query_loss(learner, task)


def gradient_of(
    learner: Learner, batch: Task, plan: Plan, objective: Objective = query_loss
) -> tuple[Tensor, Outcome]:
    learner.zero_grad()
    outcome = accumulate(learner, as_step(learner, batch), objective, plan)
    gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters())
    return flat(gradients), outcome


@pytest.mark.parametrize(("name", "chunk"), [*product(LEARNERS, [2]), *product(FAMILIES, [9])])
def test_every_mapping_and_chunk_equals_the_plain_loop(name: str, chunk: int) -> None:
    learner, tasks = made(name), five_tasks()
    outcomes = [query_loss(learner, task) for task in tasks]
    losses = torch.stack([outcome.loss for outcome in outcomes])
    expected = flat(torch.autograd.grad(losses.mean(), list(learner.parameters())))
    loops = (Plan(Mapping.LOOP, "", chunk), Plan(Mapping.LOOP, "", chunk, workers=3))
    batched = (Plan(mapping, "", chunk) for mapping in batched_mappings(learner))
    for plan in (*loops, *batched):
        gradient, outcome = gradient_of(learner, stack(tasks), plan)
        assert error(gradient, expected) <= 1e-10
        torch.testing.assert_close(outcome.loss, losses.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(outcome.score, torch.stack([o.score for o in outcomes]))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_summed_and_keep_no_graph(name: str) -> None:
    learner, batch = made(name), stack(five_tasks())
    for mapping in (Mapping.LOOP, *batched_mappings(learner)):
        once, outcome = gradient_of(learner, batch, Plan(mapping, "", 5))
        accumulate(learner, as_step(learner, batch), query_loss, Plan(mapping, "", 5))
        twice = flat([p.grad for p in learner.parameters() if p.grad is not None])
        torch.testing.assert_close(twice, 2 * once)
        kept = [p.grad for p in learner.parameters()] + [outcome.loss, outcome.score]
        assert not any(tensor.requires_grad for tensor in kept if tensor is not None)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_parameters_stay_without_gradient(name: str) -> None:
    learner, batch = made(name), stack(five_tasks())
    frozen = next(learner.parameters()).requires_grad_(False)
    for mapping in (Mapping.LOOP, *batched_mappings(learner)):
        accumulate(learner, as_step(learner, batch), query_loss, Plan(mapping, "", 5))
        assert frozen.grad is None
        assert all(p.grad is not None for p in learner.parameters() if p.requires_grad)
        learner.zero_grad()


@pytest.mark.parametrize("name", FAMILIES)
def test_unused_parameters_stay_without_gradient(name: str) -> None:
    """With a gradient of zeros, weight decay and momentum would change them."""
    learner, batch = made(name), stack(five_tasks())
    unused = learner.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for mapping in (Mapping.LOOP, *batched_mappings(learner)):
        learner.zero_grad()
        accumulate(learner, as_step(learner, batch), query_loss, Plan(mapping, "", 5))
        assert unused.grad is None
        assert all(p.grad is not None for p in learner.parameters() if p is not unused)


def one_module_twice() -> nn.Module:
    shared = nn.Linear(24, 24)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(24, 3))


def one_parameter_in_two_modules() -> nn.Module:
    net = nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24), nn.Linear(24, 3))
    net[2].weight, net[2].bias = net[0].weight, net[0].bias
    return net


@pytest.mark.parametrize("make", [one_module_twice, one_parameter_in_two_modules])
def test_shared_parameters_adapt_as_one(make: Callable[[], nn.Module]) -> None:
    """functional_call loses the parameters of a module that is used in two places."""
    torch.manual_seed(0)
    net, task = make().double(), vectors_task(0)
    parameters = list(net.parameters())

    def forward(weights: Weights, rows: Examples, support: Examples | None) -> Tensor:
        w, b = weights["0.weight"], weights["0.bias"]
        hidden = (rows.inputs @ w.T + b).tanh() @ w.T + b
        predictions: Tensor = hidden @ weights["3.weight"].T + weights["3.bias"]
        return predictions

    expected = independent_gradient(forward, net, task, 2, 0.1)
    for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD):
        found, _ = gradient_of(qs.MAML(net, 2, 0.1), stack([task]), Plan(mapping, "", 2))
        assert error(found, expected) <= TOLERANCE
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


def test_values_without_gradients_equal_those_of_single_tasks() -> None:
    learner, batch = made("maml"), stack(five_tasks())

    def answer(learner: Learner, task: Task) -> Tensor:
        answered: Tensor = learner(task.support, task.spec)(task.query.inputs)
        return answered

    expected = torch.stack([answer(learner, task) for task in unstack(batch)]).detach()
    for mapping in (Mapping.LOOP, Mapping.VMAP):
        found = map_tasks(answer, batch, learner, Plan(mapping, "", 2))
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


def test_attention_in_evaluation_mode_does_not_use_the_fused_kernel() -> None:
    """torch uses its fused encoder in evaluation without gradients; adapting must not use it."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Unflatten(1, (4, 6)), encoder, nn.Flatten(), nn.Linear(24, 3))
    learner, task = qs.MAML(net, 2, 0.1).double(), vectors_task(0)
    training = learner.train()(task.support, task.spec)(task.query.inputs).detach()
    with torch.no_grad():
        evaluating = learner.eval()(task.support, task.spec)(task.query.inputs)
    torch.testing.assert_close(evaluating, training)


# Planning.


def test_memory_decides_the_chunk_size() -> None:
    learner, batch = made("maml"), stack(five_tasks())
    costs = {
        Mapping.VMAP_GRAD: cost_of_one_task(learner, batch, own_query_loss),
        Mapping.TASK_AXIS: cost_over_tasks(learner, batch, query_loss) or Cost(),
    }
    for mapping, objective in (
        (Mapping.VMAP_GRAD, own_query_loss), (Mapping.TASK_AXIS, query_loss),
    ):  # fmt: skip
        each = costs[mapping].bytes
        for memory, chunk in ((1, 1), (3 * each, 3), (each * 1000, 16)):
            plan = make_plan(learner, [batch], objective, 16, qs.Compute(memory=memory))
            assert (plan.mapping, plan.chunk) == (mapping, chunk)
    each = costs[Mapping.VMAP_GRAD].bytes
    for memory, workers, why in (
        (1, 1, "asked for; memory has room for 1"),
        (2 * each, 2, "asked for; memory has room for 2"),
        (3 * each, 3, "asked for"),
    ):
        plan = make_plan(learner, [batch], query_loss, 16, qs.Compute("loop", memory, 3))
        assert (plan.workers, plan.at_once, plan.why) == (workers, workers, why)
    few = make_plan(learner, [batch], query_loss, 2, qs.Compute("loop", workers=3))
    assert (few.workers, few.why) == (2, "asked for"), "it is the tasks that are few, not memory"
    for memory in (0, -5):
        with pytest.raises(ValueError, match=f"memory must be 1 or more bytes; found {memory}"):
            qs.Compute(memory=memory)


def test_graph_bytes_is_an_upper_bound_of_what_autograd_keeps() -> None:
    learner, batch = made("prototypical"), stack(five_tasks())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome = query_loss(learner, unstack(batch)[0])
    inputs = {leaf.untyped_storage().data_ptr() for part in batch[:2] for leaf in part}
    graph = sum(size for place, size in kept.items() if place not in parameters | inputs)
    assert outcome.loss.requires_grad
    assert 0 < graph <= cost_of_one_task(learner, batch, query_loss).bytes


def test_plans_give_their_reason() -> None:
    batch = stack([vectors_task(seed) for seed in range(2)])
    maml = made("maml")
    assert make_plan(maml, [batch], query_loss, 4).mapping is Mapping.TASK_AXIS
    assert make_plan(maml, [batch], own_query_loss, 4).mapping is Mapping.VMAP_GRAD
    assert make_plan(made("ridge"), [batch], query_loss, 4).mapping is Mapping.VMAP
    plan = make_plan(maml, [batch], query_loss, 4, qs.Compute("loop"))
    assert plan == Plan(Mapping.LOOP, "asked for", 4)
    assert "equals the loop" in str(make_plan(maml, [batch], query_loss, 4))
    plan = make_plan(maml, [batch], query_loss, 4, qs.Compute("vmap"))
    assert plan == Plan(Mapping.VMAP_GRAD, "asked for", 4, kinds=(("classes", None),))
    with pytest.raises(ValueError, match="engine must be 'auto', 'vmap' or 'loop'; found 'fast'"):
        qs.Compute("fast")  # type: ignore[arg-type]


def absolute(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted - true).abs()


def branching(predicted: Tensor, true: Tensor) -> Tensor:
    return absolute(predicted, true) if float(predicted.detach().sum()) > -1e9 else predicted


class Doubled(Reals):
    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return branching(predictions, targets) * 2


def line(spec: TaskSpec) -> Task:
    x = torch.linspace(-1, 1, 6)[:, None]
    rows = qs.examples(x, x)
    return Task(rows, rows, spec)


@pytest.mark.parametrize("late", [qs.spec(1, branching), TaskSpec(Doubled(1))])
def test_a_mapping_is_checked_for_each_answer_with_code_of_the_users(late: TaskSpec) -> None:
    """A loss that vmap does not support is looped where it occurs first after the checks."""
    early = qs.spec(1, absolute) if late.answer.kind == "custom" else qs.regression(1)
    tasks = qs.tasks.fixed([line(early)] * 8 + [line(late)] * 8)
    torch.manual_seed(0)
    learner = qs.MAML(MLP(1, outputs=1), rate=0.01)
    for task in (line(early), line(late)):
        assert kind_of(task) == kind_of(line(task.spec))
    assert kind_of(line(early)) != kind_of(line(late))
    training = qs.fit(learner, tasks, 4, 4, progress=False)
    assert training.plan.mapping is not Mapping.LOOP


def pictures(channels: int, norm: str) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 6)), nn.Conv2d(1, channels, 3), make_norm(norm, channels),
        nn.Conv2d(channels, channels, 2), nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize(("channels", "mapping"), [(4, Mapping.VMAP), (512, Mapping.LOOP)])
def test_convolutions_are_looped_where_arithmetic_outweighs_calls(
    channels: int, mapping: Mapping
) -> None:
    learner = qs.Prototypical(pictures(channels, "batch")).double()
    batch = stack([vectors_task(0), vectors_task(1)])
    plan = make_plan(learner, [batch], query_loss, 4)
    assert plan.mapping is mapping
    cost = cost_of_one_task(learner, batch, query_loss)
    assert f"{cost.operators} operators" in plan.why
    assert f"{cost.flops / 1e9:.2g} GFLOP" in plan.why
    shared = make_plan(learner, [batch], query_loss, 4, qs.Compute(workers=2))
    assert (shared.mapping, shared.workers) == (Mapping.LOOP, 2), "workers are for loops"


def test_convolutions_are_computed_first_where_the_rest_uses_only_features() -> None:
    batch = stack([vectors_task(0), vectors_task(1)])
    learner = qs.Prototypical(pictures(4, "group")).double()
    assert make_plan(learner, [batch], query_loss, 4).mapping is Mapping.FEATURES
    beside = AlsoInputs(pictures(4, "group")).double()
    assert make_plan(beside, [batch], query_loss, 4).mapping is not Mapping.FEATURES
    compiled = make_plan(learner, [batch], query_loss, 4, qs.Compute(compile=True))
    assert not compiled.compiled
    assert "not compiled" in compiled.why


class DecayedAtFirst:
    """The query loss, and in the first half of training weight decay."""

    scheduled, progress = True, 1.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def __call__(self, learner: Learner, task: Task) -> Outcome:
        outcome = query_loss(learner, task)
        if self.progress > 0.5:
            return outcome
        decay = torch.stack([p.square().sum() for p in learner.parameters()]).sum()
        return outcome._replace(loss=outcome.loss + decay)


def test_features_first_is_not_used_for_scheduled_objectives() -> None:
    """Right at the end of training, it would be wrong at the start: the copy has no backbone."""
    batch, decayed_at_first = stack([vectors_task(0), vectors_task(1)]), DecayedAtFirst()
    learner = qs.Prototypical(pictures(4, "group")).double()
    plan = make_plan(learner, [batch], decayed_at_first, 4)
    assert plan.mapping is Mapping.VMAP
    why = "neither task_axis nor features, since DecayedAtFirst changes as training goes on"
    assert plan.why.endswith(why)
    decayed_at_first.set_progress(0.0)
    expected, _ = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 2), decayed_at_first)
    found, _ = gradient_of(learner, batch, plan, decayed_at_first)
    assert error(found, expected) <= 1e-10


def test_a_mapping_that_gives_gradients_to_other_parameters_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_zeros(learner: Learner, *arguments: Any) -> Outcome:
        outcome = accumulate(learner, *arguments)
        for parameter in learner.parameters():
            if parameter.grad is None and arguments[2].mapping is not Mapping.LOOP:
                parameter.grad = torch.zeros_like(parameter)
        return outcome

    monkeypatch.setattr(proof, "accumulate", with_zeros)
    learner, batch = made("maml"), stack([vectors_task(0), vectors_task(1)])
    assert make_plan(learner, [batch], own_query_loss, 4).mapping is Mapping.VMAP_GRAD
    learner.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    plan = make_plan(learner, [batch], own_query_loss, 4)
    assert plan.mapping is Mapping.LOOP
    assert plan.why == "vmap_grad gives gradients to other parameters than the loop"


def test_the_task_axis_is_used_where_it_costs_less() -> None:
    """With many support rows, the dual form takes more arithmetic than the weights."""
    tasks = [vectors_task(seed) for seed in range(2)]
    many = [task._replace(support=Examples(*(leaf.repeat_interleave(40, 0) for leaf in task[0])))
            for task in tasks]  # fmt: skip
    learner = qs.MAML(MLP(24, (64,), outputs=3), 5, 0.1).double()
    for rows, mapping in ((tasks, Mapping.TASK_AXIS), (many, Mapping.VMAP_GRAD)):
        batch = stack(rows)
        assert make_plan(learner, [batch], query_loss, 25).mapping is mapping
        expected, _ = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 2))
        found, _ = gradient_of(learner, batch, Plan(Mapping.TASK_AXIS, "", 2))
        assert error(found, expected) <= 1e-10, "right all the same"


def test_a_wrong_task_axis_is_never_used() -> None:
    class Hasty(qs.MAML):
        def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
            found = super().over_tasks(support, inputs, spec)
            return found if found is None else found * (1 + 1e-6)

    class Patient(qs.MAML):
        """Adapts from the middle of training on, which ``over_tasks`` ignores."""

        scheduled = True

        def adapt(self, support: Examples, spec: TaskSpec) -> State:
            rows = slice(None) if self.progress >= 0.5 else slice(1)
            return super().adapt(Examples(*(leaf[rows] for leaf in support)), spec)

    batch = stack([vectors_task(0), vectors_task(1)])
    for kind in (Hasty, Patient):
        learner = kind(MLP(24, (8,), outputs=3), rate=0.1).double()
        assert make_plan(learner, [batch], query_loss, 4).mapping is Mapping.VMAP_GRAD


class AlsoInputs(qs.Prototypical):
    """Uses its inputs besides the features of the backbone."""

    def embed(self, state: State, inputs: Any) -> Tensor:
        return super().embed(state, inputs) * inputs.mean(-1, keepdim=True)


def test_features_first_does_not_change_the_learner() -> None:
    learner, batch = made("prototypical"), stack(five_tasks())
    backbone = learner.backbone
    reader, features = embedded(learner, batch)
    assert learner.backbone is backbone
    assert list(reader.parameters()) == []
    assert features.support.inputs.shape == (5, batch.support.weights.shape[1], 8)
    with pytest.raises(TypeError, match="has no backbone"):
        embedded(FlatRegressor(), batch)


def test_operators_and_arithmetic_equal_those_of_the_forward_pass() -> None:
    net = nn.Linear(24, 3, bias=False).double()
    counted = cost_of_one_task(Chance(net), stack([vectors_task(0)]), lambda learner, task: (
        learner.net(task.query.inputs).square().sum()
    ))  # fmt: skip
    rows = len(vectors_task(0).query.weights)
    assert (counted.operators, counted.flops) == (3, 2 * rows * 24 * 3)  # mm, pow, sum
    assert counted.bytes == 8 * (2 * rows * 3 + 1)


def test_costs_are_counted_as_the_engine_runs() -> None:
    """The engine declares equal weights of rows to norms, where they are equal."""
    learner = qs.Prototypical(pictures(4, "batch")).double()
    equal = [vectors_task(0), vectors_task(1)]
    mixed = five_tasks()[:2]
    counts = [cost_of_one_task(learner, stack(tasks), query_loss) for tasks in (equal, mixed)]
    assert counts[0].operators < counts[1].operators
    assert counts[0].bytes < counts[1].bytes


def test_what_cannot_be_counted_is_looped_on_a_cpu() -> None:
    class Unwatchable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if _get_current_dispatch_mode() is not None:
                raise NotImplementedError("not while watched")
            return x

    net = nn.Sequential(pictures(4, "group"), Unwatchable())
    learner, batch = qs.MAML(net, rate=0.1).double(), stack([vectors_task(0), vectors_task(1)])
    plan = make_plan(learner, [batch], query_loss, 4)
    assert plan.mapping is Mapping.LOOP
    assert "cannot be counted" in plan.why
    assert (
        error(*(gradient_of(learner, batch, p)[0] for p in (plan, Plan(Mapping.LOOP, "", 1)))) == 0
    )


class Chance(Learner):
    """Does not use the support set."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return ()

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        predictions: Tensor = self.net(inputs)
        return predictions


class FlatRegressor(Learner):
    """Gives (n,) where (n, 1) is required: squared error would broadcast the two to (n, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return (support.weights @ support.targets) / support.weights.sum()

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        predictions: Tensor = (self.scale * inputs * state).squeeze(-1)
        return predictions


def test_wrong_shapes_are_refused_before_they_broadcast() -> None:
    with pytest.raises(BrokenLaw, match=r"must give shape \(4, 1\); found \(4,\)"):
        check_lawful(FlatRegressor(), qs.Sinusoids(5, 5)(torch.Generator().manual_seed(0)))


def test_a_learner_without_trainable_parameters_is_refused() -> None:
    learner = made("ridge")
    learner.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        check_lawful(learner, vectors_task(0))


# Objectives.


def test_a_plain_scalar_has_an_unknown_score() -> None:
    learner, batch = made("prototypical"), stack(five_tasks())

    def loss_alone(learner: Learner, task: Task) -> Tensor:
        return query_loss(learner, task).loss

    expected, _ = gradient_of(learner, batch, Plan(Mapping.LOOP, "", 5))
    for mapping in (Mapping.LOOP, Mapping.VMAP):
        gradient, outcome = gradient_of(learner, batch, Plan(mapping, "", 2), loss_alone)
        assert outcome.score.shape == (5,)
        assert outcome.score.isnan().all()
        assert error(gradient, expected) <= 1e-10


def half_squared_distance(learner: Learner, task: Task) -> Tensor:
    """To the adapted weights, as a constant: its gradient is theta - phi, as in Reptile."""
    assert isinstance(learner, qs.MAML)
    adapted = learner.adapt(task.support, task.spec)["weights"]
    pairs = ((p, adapted[name]) for name, p in learner.backbone.named_parameters())
    return torch.stack([(p - phi.detach()).square().sum() / 2 for p, phi in pairs]).sum()


def test_the_distance_to_the_adapted_weights_has_reptiles_gradient() -> None:
    learner, tasks = made("maml"), five_tasks()
    assert isinstance(learner, qs.MAML)
    moves = []
    for task in tasks:
        adapted = learner.adapt(task.support, task.spec)["weights"]
        pairs = learner.backbone.named_parameters()
        moves.append(flat([(p - adapted[name]).detach() for name, p in pairs]))
    expected = torch.stack(moves).mean(0)
    for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD):
        plan = Plan(mapping, "", 2)
        found, _ = gradient_of(learner, stack(tasks), plan, half_squared_distance)
        assert error(found, expected) <= 1e-12


def test_fit_minimises_a_custom_objective() -> None:
    """One SGD step at rate 1 on half the squared distance gives the mean adapted weights."""
    learner = made("maml").float()
    assert isinstance(learner, qs.MAML)
    source = qs.episodes(four_clouds(), ways=3, shots=2, queries=2)
    before = flat([p.detach().clone() for p in learner.parameters()])
    adapted = []
    for index in range(3):
        task = draw(source, 0, index)
        weights = learner.adapt(task.support, task.spec)["weights"]
        adapted.append(flat(weights.values()).detach())
    training = qs.fit(
        learner, source, steps=1, tasks_per_step=3, objective=half_squared_distance, progress=False,
        optimiser=lambda parameters: torch.optim.SGD(parameters, lr=1.0), log_every=1,
    )  # fmt: skip
    after = flat([p.detach() for p in learner.parameters()])
    assert training.plan.mapping is Mapping.VMAP_GRAD
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, torch.stack(adapted).mean(0))


class Reptilian(qs.MAML):
    objective = staticmethod(half_squared_distance)


def test_fit_minimises_the_learners_own_objective() -> None:
    torch.manual_seed(0)
    net = MLP(24, (8,), outputs=3)
    source = qs.episodes(four_clouds(), ways=3, shots=2, queries=2)
    weights = []
    for learner, objective in (
        (Reptilian(copy.deepcopy(net), rate=0.1), None),
        (qs.MAML(copy.deepcopy(net), rate=0.1), half_squared_distance),
        (Reptilian(copy.deepcopy(net), rate=0.1), query_loss),
    ):
        qs.fit(learner, source, 2, 2, objective=objective, progress=False)
        weights.append(flat([p.detach() for p in learner.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Sequential(qs.Prototypical):
    exceptions = {"support_order_is_irrelevant": "it reads a sequence"}  # noqa: RUF012


def test_sequences_sorted_by_class_are_refused() -> None:
    learner = Sequential(MLP(24, (8,)))
    with pytest.raises(ValueError, match="class by class"):
        qs.fit(learner, qs.episodes(four_clouds(), 3, 2, 2), 1, 1, progress=False)
    qs.fit(learner, qs.episodes(four_clouds(), 3, 2, 2, shuffled=True), 1, 1, progress=False)


def four_clouds() -> qs.LabelledRows:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, 24, generator=generator) + torch.randn(4, 1, 24, generator=generator)
    return qs.LabelledRows(rows.flatten(0, 1), torch.full((4,), 6), ("a", "b", "c", "d"))
