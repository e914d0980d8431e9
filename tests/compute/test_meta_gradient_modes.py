"""Each kind of meta-gradient equals its definition, in float64."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Examples, Task
from quickstudy.learners.gradient.descend import Adam, Momentum, Update, sgd
from quickstudy.learners.gradient.meta_gradients import (
    Annealed,
    Exact,
    FiniteDifference,
    FirstOrder,
    Implicit,
    MetaGradient,
)
from quickstudy.learners.gradient.pullback import conjugate_gradients
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place
from witness import engine_gradient, error, in_general_position, vectors_task

LOOP, MAPPED = Plan(Mapping.LOOP, "", 2), Plan(Mapping.VMAP_GRAD, "", 2)
TASKS = [vectors_task(seed) for seed in range(2)]
UPDATES = pytest.mark.parametrize("update", [sgd, Momentum(), Adam()], ids=["sgd", "mom", "adam"])


def smooth() -> nn.Module:
    net = nn.Sequential(nn.Linear(24, 4), nn.Tanh(), nn.Linear(4, 3))
    torch.manual_seed(0)
    return in_general_position(net)


NET = smooth()


def gradient(mode: MetaGradient, plan: Plan = LOOP, steps: int = 3, **options: object) -> Tensor:
    learner = qs.MAML(NET, steps, 0.1, mode, **options)  # type: ignore[arg-type]
    return engine_gradient(learner, TASKS, plan)


@pytest.mark.parametrize("plan", [LOOP, MAPPED], ids=["loop", "vmap"])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("adapts", ["*", "2.*"])
@UPDATES
def test_recomputed_steps_give_the_exact_gradient(
    update: Update, adapts: str, clip: float | None, plan: Plan
) -> None:
    options = {"update": update, "adapts": adapts, "clip": clip}
    exact = gradient(Exact(), **options)
    assert error(gradient(Exact(recompute=True), plan, **options), exact) <= 1e-12


def saved_bytes(mode: MetaGradient, steps: int) -> int:
    """What the graph of a task's loss keeps for its backward pass, each memory once."""
    rows = Examples(*(torch.cat([leaf] * 50) for leaf in TASKS[0].support))
    outcome = query_loss(qs.MAML(NET, steps, 0.1, mode), TASKS[0]._replace(support=rows))
    waiting = [outcome.loss.grad_fn]
    seen, kept = set(), {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
        own = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for tensor in [*own, *getattr(node, "saved_tensors", ())]:
            if isinstance(tensor, Tensor):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(kept.values())


def test_a_recomputed_step_keeps_only_its_weights() -> None:
    weights = sum(p.nbytes for p in NET.parameters())
    recorded, recomputed = (
        saved_bytes(mode, 6) - saved_bytes(mode, 5) for mode in (Exact(), Exact(recompute=True))
    )
    assert 0 < recomputed <= 3 * weights  # before and after the step, and its gradients
    assert recorded > 10 * recomputed  # activations of 300 rows


@pytest.mark.parametrize("adapts", ["*", "0.weight"])
@UPDATES
def test_finite_differences_converge_at_second_order(update: Update, adapts: str) -> None:
    exact = gradient(Exact(), update=update, adapts=adapts)
    errors = [
        error(gradient(FiniteDifference(radius), update=update, adapts=adapts), exact)
        for radius in (4e-3, 2e-3, 1e-3)
    ]
    assert 0 < errors[-1] < 1e-4
    for wide, narrow in pairwise(errors):
        assert 3.8 < wide / narrow < 4.2


def kinked() -> nn.Module:
    """ReLU and max-pooling, and a native norm with float32 buffers, as in a frozen network."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    features = nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(100, 5))


@pytest.mark.parametrize("steps", [1, 5, 10])
@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_finite_differences_of_a_network_with_jumps_point_where_the_exact_gradient_does(
    steps: int, rate: float
) -> None:
    """In float32, where at a radius of 0.3, and at any other, they do not."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.arange(5)
    rows = torch.rand(15, 1, 12, 12, generator=generator)
    task = Task(
        qs.examples(rows[:5], ids), qs.examples(rows[5:], ids.repeat(2)), qs.classification(5)
    )

    def flat(mode: MetaGradient) -> Tensor:
        learner = qs.MAML(kinked(), steps, rate, mode)
        found = torch.autograd.grad(query_loss(learner, task).loss, list(learner.parameters()))
        assert all(g.dtype == torch.float32 for g in found)
        return torch.cat([g.flatten() for g in found])

    exact = flat(Exact())
    cosine = torch.nn.functional.cosine_similarity(flat(FiniteDifference()), exact, 0)
    assert float(cosine) > 0.999
    assert float(flat(FiniteDifference()).norm() / exact.norm()) == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("name", ["ANIL", "BOIL", "MetaSGD", "CAVIA", "ProtoMAML"])
def test_finite_differences_of_other_learners(name: str) -> None:
    """CAVIA's context begins at zero, so the radius cannot be relative to it alone."""
    generator = torch.Generator().manual_seed(1)
    ids, rows = torch.arange(3), torch.randn(9, 6, generator=generator)
    task = Task(
        qs.examples(rows[:3], ids), qs.examples(rows[3:], ids.repeat(2)), qs.classification(3)
    )

    def flat(mode: MetaGradient) -> Tensor:
        torch.manual_seed(0)
        outputs = None if name == "ProtoMAML" else 3
        net = MLP(6, (8, 8), outputs=outputs)
        start = {"lowest": 0.2, "highest": 0.4} if name == "MetaSGD" else {"rate": 0.3}
        learner = getattr(qs, name)(net, steps=5, meta_gradient=mode, **start)
        loss = query_loss(learner, task).loss
        weights = [p for p in learner.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    found, exact = flat(FiniteDifference()), flat(Exact())
    assert float(torch.nn.functional.cosine_similarity(found, exact, 0)) > 0.999


def test_the_radius_is_the_length_of_the_difference_for_all_cotangents() -> None:
    loss = query_loss(qs.MAML(NET, 2, 0.1, FiniteDifference(0.3)), TASKS[0]).loss
    once, tenfold = (
        torch.cat([
            g.flatten() for g in torch.autograd.grad(k * loss, NET.parameters(), retain_graph=True)
        ])
        for k in (1, 10)
    )  # fmt: skip
    assert error(tenfold, 10 * once) <= 1e-10


@pytest.mark.parametrize("mode", [FiniteDifference(), FirstOrder(), Implicit(3.0)], ids=str)
def test_steps_equal_those_of_torch(mode: MetaGradient) -> None:
    """Momentum on clipped gradients; Implicit's are those of the proximal loss."""
    rows, spec = TASKS[0].support, TASKS[0].spec
    learner = qs.MAML(NET, 4, 0.1, mode, update=Momentum(0.8), clip=0.1)
    path = [state["weights"].values() for state in learner.trajectory(rows, spec)]
    net = copy.deepcopy(NET)
    own = list(net.parameters())
    optimiser = torch.optim.SGD(own, lr=0.1, momentum=0.8)
    strength = mode.strength if isinstance(mode, Implicit) else 0.0
    assert len(path) == 5
    for weights in path:
        for found, w in zip(weights, own, strict=True):
            torch.testing.assert_close(found, w, rtol=1e-10, atol=1e-12)
        loss = (rows.weights * spec.answer.loss(net(rows.inputs), rows.targets)).sum()
        pulls = [(w - s).square().sum() for w, s in zip(own, NET.parameters(), strict=True)]
        total = loss / rows.weights.sum() + strength / 2 * torch.stack(pulls).sum()
        gradients = torch.autograd.grad(total, own)
        length = torch.cat([g.flatten() for g in gradients]).norm()
        assert length > 0.1
        for w, g in zip(own, gradients, strict=True):
            w.grad = g * 0.1 / length
        optimiser.step()


def test_a_zero_cotangent_has_a_zero_product() -> None:
    flat = [
        task._replace(query=task.query._replace(weights=0 * task.query.weights)) for task in TASKS
    ]
    for mode in (FiniteDifference(), Implicit()):
        found = engine_gradient(qs.MAML(NET, 2, 0.1, mode), flat, LOOP)
        assert torch.equal(found, torch.zeros_like(found))


# Linear regression: loss = w' A w / 2 - b' w + constant, so closed forms exist.


def quadratic(rows: Examples) -> tuple[Tensor, Tensor]:
    share = (rows.weights / rows.weights.sum())[:, None]
    return 2 * rows.inputs.T @ (share * rows.inputs), 2 * rows.inputs.T @ (share * rows.targets)


def drawn(n: int, generator: torch.Generator) -> Examples:
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    return Examples(x, y, weights, one_place(weights))


def plane(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    return Task(drawn(7, generator), drawn(5, generator), qs.regression())


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("damping", [0.0, 3.0])
@pytest.mark.parametrize("plan", [LOOP, MAPPED], ids=["loop", "vmap"])
def test_implicit_equals_the_gradient_of_the_proximal_optimum(
    strength: float, damping: float, plan: Plan
) -> None:
    task, net = plane(), in_general_position(nn.Linear(3, 1, bias=False))
    # As many solver steps as weights: conjugate gradients are exact.
    mode = Implicit(strength, solver_steps=3, damping=damping)
    found = engine_gradient(qs.MAML(net, 400, 0.1, mode), [task], plan)
    (a, b), (c, d) = quadratic(task.support), quadratic(task.query)
    eye, both = torch.eye(3, dtype=torch.float64), strength + damping
    start = next(net.parameters()).detach().T
    optimum = torch.linalg.solve(a + strength * eye, strength * start + b)
    expected = both * torch.linalg.solve(a + both * eye, c @ optimum - d)
    assert error(found, expected.flatten()) <= 1e-10


def test_implicit_gives_gradients_to_parameters_that_do_not_adapt() -> None:
    """The exact derivative of a descent long enough to end at the proximal optimum."""
    torch.manual_seed(0)
    net = in_general_position(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)))
    task, strength, steps = plane(), 2.0, 300
    mode = Implicit(strength, solver_steps=8)
    learner = qs.MAML(net, steps, 0.1, mode, adapts="2.*")
    found = engine_gradient(learner, [task], LOOP)
    own = dict(net.named_parameters())
    start = fast = [own["2.weight"], own["2.bias"]]

    def loss(head: list[Tensor], rows: Examples) -> Tensor:
        hidden = (rows.inputs @ own["0.weight"].T + own["0.bias"]).tanh()
        errors = ((hidden @ head[0].T + head[1] - rows.targets) ** 2).squeeze(1)
        return (rows.weights * errors).sum() / rows.weights.sum()

    for _ in range(steps):
        pull = sum(((f - s) ** 2).sum() for f, s in zip(fast, start, strict=True))
        total = loss(fast, task.support) + strength / 2 * pull
        gradients = torch.autograd.grad(total, fast, create_graph=True)
        fast = [f - 0.1 * g for f, g in zip(fast, gradients, strict=True)]
    expected = torch.autograd.grad(loss(fast, task.query), list(own.values()))
    assert error(found, torch.cat([g.flatten() for g in expected])) <= 1e-9


def test_implicit_without_solver_steps_equals_first_order() -> None:
    """Through steps of descent on the proximal loss, v would shrink; implicitly it stays v."""
    task, net = plane(), in_general_position(nn.Linear(3, 1, bias=False))
    learner = qs.MAML(net, 2, 0.1, Implicit(1.0, solver_steps=0))
    end = learner.adapt(task.support, task.spec)["weights"]["weight"].detach().T
    c, d = quadratic(task.query)
    assert error(engine_gradient(learner, [task], LOOP), (c @ end - d).flatten()) <= 1e-12


def test_training_one_step_maml_finds_its_closed_form_optimum() -> None:
    """Mean of |query loss after one step| over tasks is quadratic in the initial weights."""
    tasks, rate = [plane(seed) for seed in range(6)], 0.1
    eye = torch.eye(3, dtype=torch.float64)
    left, right = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    for task in tasks:
        (a, b), (c, d) = quadratic(task.support), quadratic(task.query)
        step = eye - rate * a
        left, right = left + step @ c @ step, right + step @ (d - rate * c @ b)
    net = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.solve(left, right).T)
    at_optimum = engine_gradient(qs.MAML(net, 1, rate), tasks, LOOP)
    assert at_optimum.abs().max() <= 1e-13
    with pytest.raises(AssertionError):  # first order has another fixed point
        assert engine_gradient(qs.MAML(net, 1, rate, FirstOrder()), tasks, LOOP).norm() <= 1e-3


def test_conjugate_gradients_stop_at_negative_curvature() -> None:
    matrix = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
    right = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    assert torch.equal(conjugate_gradients(lambda x: [matrix @ x[0]], right, 5)[0], right[0])
    positive = torch.diag(torch.tensor([2.0, 5.0], dtype=torch.float64))
    found = conjugate_gradients(lambda x: [positive @ x[0]], [right[0] + 1], 9)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.4], dtype=torch.float64))


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="radius > 0; found 0"):
        FiniteDifference(0.0)
    with pytest.raises(ValueError, match=r"strength > 0, .* damping >= 0; found -1"):
        Implicit(-1.0)
    with pytest.raises(ValueError, match=r"found 2\.0, 5 and -0\.5"):
        Implicit(damping=-0.5)
    with pytest.raises(ValueError, match="first_order_until is a share of training"):
        Annealed(-0.1)


@pytest.mark.parametrize("learner", [qs.MAML, qs.ANIL, qs.BOIL, qs.CAVIA])
@pytest.mark.parametrize("mode", [Implicit(), Annealed(0.5, Implicit())], ids=["", "annealed"])
def test_implicit_refuses_settings_that_cannot_come_near_its_optimum(
    learner: Any, mode: MetaGradient
) -> None:
    def made(**options: object) -> None:
        settings = {"steps": 2, "rate": 0.4, "meta_gradient": mode} | options
        learner(MLP(4, (3,), outputs=2), **settings)

    made()
    made(rate=1.0, update=Momentum())
    with pytest.raises(ValueError, match=f"{learner.__name__}: .* acts in step 2; found steps=1"):
        made(steps=1)
    with pytest.raises(ValueError, match=r"rate \* strength < 2, .* rate=1.0, strength=2.0"):
        made(rate=1.0)
    if learner is not qs.CAVIA:
        with pytest.raises(ValueError, match="gives learnt rates no gradient"):
            made(learn_rates=True)


@pytest.mark.parametrize("then", [Exact(), FiniteDifference(1e-3)], ids=str)
def test_annealed_equals_first_order_and_then_the_other(then: MetaGradient) -> None:
    def at(mode: MetaGradient, progress: float) -> Tensor:
        learner = qs.MAML(NET, 2, 0.1, mode, update=Momentum(), clip=1.0)
        learner.progress = progress
        return engine_gradient(learner, TASKS, LOOP)

    annealed = Annealed(0.4, then)
    for progress, same in ((0.0, FirstOrder()), (0.39, FirstOrder()), (0.4, then), (1.0, then)):
        assert torch.equal(at(annealed, progress), at(same, progress))
    assert error(at(annealed, 0.0), at(annealed, 1.0)) > 1e-3
