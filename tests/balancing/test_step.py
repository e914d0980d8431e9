"""Steps by a balancer: names, absent tasks, parts per task, memory, numbers that are not finite.

The witness of every gradient is autograd of single losses, in float64, without the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.balancing.combine import Combine, mean
from quickstudy.balancing.step import NotFinite, combined, refuse_not_finite
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.core import Learner, Task
from quickstudy.objectives import objective_of
from quickstudy.training.fit import NonFiniteLoss
from witness import error, flat, in_general_position

SIZES = {"price": 1, "age": 1, "height": 1}


def regression_task(name: str, seed: int, known: bool = True) -> Task:
    """Three rows of support, four of query; NaN targets where nothing is known."""
    generator = torch.Generator().manual_seed(seed)

    def rows(n: int) -> qs.Examples:
        inputs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        targets = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        return examples_of(inputs, targets if known else targets * torch.nan)

    spec = qs.TaskSpec(qs.answers.Reals(1, missing=True), name)
    return Task(rows(3), rows(4), spec)


def shared_body(tasks: dict[str, int] = SIZES) -> Learner:
    torch.manual_seed(0)
    learner = qs.HardSharing(MLP(4, (6,)), tasks)
    in_general_position(learner)
    return learner


def maml() -> Learner:
    torch.manual_seed(0)
    learner = qs.MAML(MLP(4, (6,), outputs=1), 2, 0.1)
    in_general_position(learner)
    return learner


@dataclass
class Given:
    """Given weights of the tasks' gradients; records what it reads."""

    numbers: Sequence[float]
    reads: ClassVar[str] = "gramian"
    weighs_all: bool = False
    seen: list[Any] = field(default_factory=list)

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        self.seen.append((gramian, losses, list(names)))
        return torch.tensor(self.numbers, dtype=torch.float64)


def step_by(
    combine: Combine, learner: Learner, tasks: Sequence[Task], plan: Plan | None = None
) -> dict[str, Tensor | None]:
    """The gradient of each parameter that one step has."""
    learner.zero_grad()
    plan = plan or Plan(Mapping.LOOP, "", len(tasks))
    combined(combine, learner, prepare_tasks(learner, tasks), objective_of(learner), plan, None)
    return {name: p.grad for name, p in learner.named_parameters()}


def of_losses(learner: Learner, tasks: Sequence[Task]) -> list[dict[str, Tensor]]:
    """The gradient of each task's loss, by autograd alone."""
    found = []
    for task in tasks:
        parameters = dict(learner.named_parameters())
        outcome = objective_of(learner)(learner, task)
        loss = outcome if isinstance(outcome, Tensor) else outcome.loss
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        found.append(dict(zip(parameters, gradients, strict=True)))
    return found


def shared_names(learner: Learner) -> list[str]:
    own = getattr(learner, "per_task", ())
    return [name for name, _ in learner.named_parameters() if name not in own]


PLANS = [
    Plan(Mapping.LOOP, "", 4), Plan(Mapping.LOOP, "", 4, parts=3), Plan(Mapping.VMAP, "", 4),
    Plan(Mapping.VMAP, "", 2, parts=5), Plan(Mapping.VMAP_GRAD, "", 3),
]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.mapping.value} {p.parts} parts")
@pytest.mark.parametrize("make", [shared_body, maml])
def test_only_what_tasks_share_is_weighed(make: Callable[[], Learner], plan: Plan) -> None:
    """Rows of one name are averaged; heads have the plain gradient of their own task's loss."""
    learner = make()
    names = ["price", "age", "price", "height"] if make is shared_body else ["", "", "", ""]
    if make is maml and plan.mapping is Mapping.VMAP:
        plan = Plan(Mapping.VMAP_GRAD, "", plan.chunk, parts=plan.parts)
    tasks = [regression_task(name, seed) for seed, name in enumerate(names)]
    each = of_losses(learner, tasks)
    groups = [[0, 2], [1], [3]] if make is shared_body else [[0], [1], [2], [3]]
    means = [
        {n: torch.stack([each[i][n] for i in places]).mean(0) for n in each[0]} for places in groups
    ]
    weights = [0.7, -0.2, 1.5, 0.4][: len(groups)]
    combine = Given(weights)
    found = step_by(combine, learner, tasks, plan)
    for name, gradient in found.items():
        factors = weights if name in shared_names(learner) else [1.0] * len(groups)
        expected = sum(w * of[name] for w, of in zip(factors, means, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    rows = torch.stack([flat([of[name] for name in shared_names(learner)]) for of in means])
    (gramian, _, seen), *_ = combine.seen
    torch.testing.assert_close(gramian, rows @ rows.T, rtol=1e-9, atol=1e-12)
    assert seen == list(dict.fromkeys(names) if make is shared_body else names)


def test_weights_of_all_parameters_act_on_heads_too() -> None:
    learner = shared_body()
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    each, weights = of_losses(learner, tasks), [0.7, -0.2, 1.5]
    for plan in PLANS[:3]:
        found = step_by(Given(weights, weighs_all=True), learner, tasks, plan)
        for name, gradient in found.items():
            expected = sum(w * of[name] for w, of in zip(weights, each, strict=True))
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_losses_of_one_name_are_one_loss() -> None:
    """Also for balancers of losses: a name that is drawn twice counts once."""
    learner = shared_body()
    tasks = [regression_task(name, s) for s, name in enumerate(["price", "price", "age"])]
    each = of_losses(learner, tasks)
    found = step_by(qs.balancing.Equal(), learner, tasks)
    for name, gradient in found.items():
        expected = (each[0][name] + each[1][name]) / 4 + each[2][name] / 2
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mgda", "cagrad", "config"])
def test_a_task_without_labels_has_no_row(name: str) -> None:
    """As a row of zeros, it would make the step of MGDA and CAGrad exactly 0."""
    pytest.importorskip("torchjd")
    learner = shared_body()
    present = [regression_task("price", 0), regression_task("age", 1)]
    absent = regression_task("height", 2, known=False)
    expected = step_by(qs.balancing.named(name), learner, present)
    expected = {n: None if g is None else g.clone() for n, g in expected.items()}
    assert flat([g for g in expected.values() if g is not None]).norm() > 0.01
    for tasks in ([*present, absent], [absent, *present], [present[0], absent, present[1]]):
        found = step_by(qs.balancing.named(name), learner, tasks)
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-9)


def test_a_drawn_task_without_labels_does_not_count_in_the_mean_of_its_name() -> None:
    learner = shared_body()
    labelled, other = regression_task("price", 0), regression_task("age", 1)
    empty = regression_task("price", 2, known=False)
    expected = step_by(Given([0.3, 0.6]), learner, [labelled, other])
    expected = {name: gradient.clone() for name, gradient in expected.items()}  # type: ignore[union-attr]
    found = step_by(Given([0.3, 0.6]), learner, [labelled, empty, other])
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("combine", [mean, qs.balancing.Equal(), Given([1.0])])
def test_a_step_without_any_label_is_refused(combine: Combine) -> None:
    tasks = [regression_task(name, 0, known=False) for name in ("price", "age")]
    rule = r"query with a known label; found none in 2 drawn tasks \(price, age\). Draw more rows"
    with pytest.raises(ValueError, match=rule):
        step_by(combine, shared_body(), tasks)


def test_torchjd_is_wrong_for_cdist() -> None:
    """Why its Jacobian is not used. Where this fails, it has been mended."""
    autojac = pytest.importorskip("torchjd.autojac")
    distances = torch.cdist(torch.randn(6, 4, dtype=torch.float64), anchors := Distances().anchors)
    losses = (distances**2).sum(0)
    loop = [torch.autograd.grad(loss, anchors, retain_graph=True)[0] for loss in losses]
    for settings, wrong in (({}, True), ({"parallel_chunk_size": 1}, False)):
        (found,) = autojac.jac(losses, [anchors], retain_graph=True, **settings)
        assert (error(found, torch.stack(loop)) > 0.1) is wrong


class Distances(nn.Module):
    """Features are distances to anchors: by ``torch.cdist``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = 5
        apart = torch.Generator().manual_seed(100)
        self.anchors = nn.Parameter(torch.randn(5, 4, generator=apart, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cdist(inputs, self.anchors)


def test_gradients_through_cdist_are_those_of_single_tasks() -> None:
    """Those that TorchJD computes, as a batch of backward passes through one graph, are wrong."""
    torch.manual_seed(0)
    learner = qs.HardSharing(Distances(), SIZES)
    in_general_position(learner)
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    rows = torch.stack([of["backbone.anchors"].flatten() for of in of_losses(learner, tasks)])
    for plan in PLANS:
        combine = Given([1.0, 1.0, 1.0])
        step_by(combine, learner, tasks, plan)
        assert error(combine.seen[0][0], rows @ rows.T) <= 1e-12


def test_fit_plans_gradients_through_cdist_that_are_right() -> None:
    torch.manual_seed(0)
    learner = qs.HardSharing(Distances(), SIZES).float()
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    combine = Given([1.0, 1.0, 1.0])
    start = {name: p.detach().clone() for name, p in learner.named_parameters()}
    qs.fit(learner, qs.tasks.fixed(tasks), 1, 3, combine=combine, progress=False)
    learner.load_state_dict(start, strict=False)
    learner.double()
    names = combine.seen[0][2]
    of = {task.spec.name: task for task in tasks}
    chosen = of_losses(learner, [of[name] for name in names])
    rows = torch.stack([gradient["backbone.anchors"].flatten() for gradient in chosen])
    assert error(combine.seen[0][0], rows @ rows.T) <= 1e-5


class Broken(nn.Module):
    """Features whose derivative, or value, is not finite where the first input is large."""

    def __init__(self, value: bool) -> None:
        super().__init__()
        self.features, self.value = 6, value
        self.linear = nn.Linear(4, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.linear(inputs)
        large = inputs[:, :1] > 50
        if self.value:
            return torch.where(large, torch.inf, features)
        return features + torch.where(large, features * 0, torch.ones_like(features)).sqrt()


def checked_step(combine: Combine, learner: Learner, tasks: Sequence[Task]) -> None:
    step, objective = prepare_tasks(learner, tasks), objective_of(learner)
    plan = Plan(Mapping.LOOP, "", len(tasks))
    outcome, _ = combined(combine, learner, step, objective, plan, None)
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    refuse_not_finite(learner, step, objective, outcome.loss.tolist(), norm)


COMBINERS = [
    mean, qs.balancing.Equal(), qs.balancing.Uncertainty(), qs.balancing.GradNorm(),
    qs.balancing.named("upgrad"), qs.balancing.named("config"), qs.balancing.named("mgda"),
]  # fmt: skip


@pytest.mark.parametrize("combine", COMBINERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_task_that_is_not_finite_stops_training_and_is_named(combine: Combine, what: str) -> None:
    """A balancer would spread it over all tasks; its memory stays as it was."""
    torch.manual_seed(0)
    learner = qs.HardSharing(Broken(what == "loss"), SIZES)
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    tasks[1].query.inputs[0, 0] = 100.0
    before = str(getattr(combine, "state_dict", dict)())
    with pytest.raises(NotFinite, match=f"the {what} of task 'age' became (nan|inf)") as caught:
        checked_step(combine, learner, tasks)
    assert caught.value.places == [1]
    if what == "loss" or combine.reads != "losses":
        assert str(getattr(combine, "state_dict", dict)()) == before


def test_fit_names_the_task_and_how_to_draw_it() -> None:
    """By its name, the step, and its number."""
    learner = qs.HardSharing(Broken(True), SIZES)
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    tasks[2].query.inputs[0, 0] = 100.0

    def source(generator: torch.Generator) -> Task:
        seed = generator.initial_seed()
        return tasks[2 if seed == bad else seed % 2]

    bad = qs.tasks.task_seed(0, 21)
    message = r"the loss of task 'height' became (nan|inf) at step 5; .* for i in \[21\]"
    with pytest.raises(NonFiniteLoss, match=message):
        qs.fit(learner, source, 10, 4, combine=qs.balancing.Equal(), progress=False)


def test_a_step_in_parts_is_that_of_torchjds_engine_for_gramians() -> None:
    """The Gramian of one graph's losses by ``torchjd.autogram``, and the step by its weights."""
    autogram = pytest.importorskip("torchjd.autogram")
    learner = shared_body()
    tasks = [regression_task(name, seed) for seed, name in enumerate(SIZES)]
    found = step_by(qs.balancing.UPGrad(), learner, tasks, Plan(Mapping.LOOP, "", 3, parts=4))
    found = {name: gradient.clone() for name, gradient in found.items()}  # type: ignore[union-attr]
    trunk, heads = learner.backbone, learner.heads
    engine = autogram.Engine(trunk, batch_dim=None)
    rows = [torch.cat([task.support.inputs, task.query.inputs]) for task in tasks]
    targets = torch.cat([torch.cat([task.support.targets, task.query.targets]) for task in tasks])
    features = trunk(torch.cat(rows)).unflatten(0, (3, 7))
    predictions = features @ heads.weight + heads.bias[:, None]
    losses = (predictions - targets.unflatten(0, (3, 7))).square().mean((1, 2))
    gramian = engine.compute_gramian(losses)
    weights = qs.balancing.UPGrad().gradient_weights(gramian.detach(), losses, list(SIZES))
    expected = torch.autograd.grad(weights @ losses, list(trunk.parameters()))
    assert error(flat([found[f"backbone.{n}"] for n, _ in trunk.named_parameters()]),
                 flat(expected)) <= 1e-6  # fmt: skip


def test_a_step_with_clipping_and_weight_decay_is_that_by_hand() -> None:
    """UPGrad weighs the trunk; heads have their plain gradient, that of an absent task is 0."""
    pytest.importorskip("torchjd")
    learner, rate, decay, clip = shared_body(), 0.1, 0.01, 0.2
    parameters = {name: p.detach().clone() for name, p in learner.named_parameters()}
    tasks = [regression_task(name, seed) for seed, name in enumerate(("price", "age"))]
    each, shared = of_losses(learner, tasks), shared_names(learner)
    rows = torch.stack([flat([of[name] for name in shared]) for of in each])
    balancer = qs.balancing.UPGrad()
    weights = balancer.gradient_weights(rows @ rows.T, torch.ones(2), ["price", "age"])
    step = {
        name: sum(w * of[name] for w, of in zip(
            weights if name in shared else [1.0, 1.0], each, strict=True))
        for name in parameters
    }  # fmt: skip
    norm = float(flat(list(step.values())).norm())  # type: ignore[arg-type]
    assert norm > clip
    qs.fit(learner, qs.tasks.fixed(tasks), 1, 2, combine=balancer, clip=clip, progress=False,
           optimiser=lambda p: torch.optim.SGD(p, lr=rate, weight_decay=decay))  # fmt: skip
    for name, found in learner.named_parameters():
        expected = parameters[name] - rate * (clip / norm * step[name] + decay * parameters[name])
        torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-7)
