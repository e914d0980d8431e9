"""TraceNorm reaches the optimum of the convex problem, by its conditions and by other solvers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of, planes, yes_or_no
from quickstudy.backbones import MLP, Features
from quickstudy.contract.check import doubled
from quickstudy.learners.multitask.linear_rows import read_tasks
from quickstudy.learners.multitask.linear_stacks import stacked
from quickstudy.learners.multitask.trace_norm_optimum import (
    alternated,
    duality_gap,
    objective_of,
    unit_trace,
)
from quickstudy.testing import check_learner

D, L2 = 5, 0.8
SIZES = (20, 20, 12, 7, 3, 2)
SPEC = qs.regression(2)


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def named() -> dict[str, qs.Examples]:
    """Tasks of two outputs whose weights lie near a plane, of unequal sizes and row weights."""
    plane, tasks = numbers(1, D, 2), {}
    for t, n in enumerate(SIZES):
        x = numbers(10 + t, n, D) + 1
        truth = plane @ numbers(30 + t, 2, 2) + 0.1 * numbers(50 + t, D, 2)
        weights = torch.tensor([1.0, 2.0, 0.5] * n, dtype=torch.float64)[:n]
        y = x @ truth + t + 0.3 * numbers(70 + t, n, 2)
        tasks[str(t)] = examples_of(x, y, weights)
    return tasks


def made(l2: float = L2, tolerance: float = 1e-7, **options: float) -> qs.TraceNorm:
    learner = qs.TraceNorm(Features(D)).double()
    return learner.learn_from(named(), SPEC, l2=l2, tolerance=tolerance, **options)


def centred(rows: qs.Examples) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets about their weighted means, times the roots of the weights."""
    w = rows.weights.numpy()[:, None]
    return tuple(np.sqrt(w) * (v - (w * v).sum(0) / w.sum())
                 for v in (rows.inputs.numpy(), rows.targets.numpy()))  # type: ignore[return-value]  # fmt: skip


def columns(learner: qs.TraceNorm) -> np.ndarray:
    """W (d, 2 tasks), of the predictors of all training tasks."""
    states = [learner(rows, SPEC).state for rows in named().values()]
    return torch.cat([state["weight"] for state in states], 1).detach().numpy()


def loss_and_gradient(w: np.ndarray) -> tuple[float, np.ndarray]:
    """sum_t |X_t W_t - Y_t|^2 with the best offsets, and its gradient."""
    loss, gradient = 0.0, []
    for rows, own in zip(named().values(), np.split(w, len(SIZES), 1), strict=True):
        x, y = centred(rows)
        loss += ((x @ own - y) ** 2).sum()
        gradient.append(2 * x.T @ (x @ own - y))
    return loss, np.hstack(gradient)


def objective(w: np.ndarray, l2: float = L2) -> float:
    return float(loss_and_gradient(w)[0] + l2 * np.linalg.norm(w, "nuc") ** 2)


@pytest.mark.parametrize("l2", [0.05, 0.8, 20.0])
def test_the_conditions_of_the_optimum_hold(l2: float) -> None:
    """Minus the gradient of the loss is in the subdifferential of l2 |W|_tr^2: with W = U S V',
    it is 2 l2 |W|_tr (U V' + M), where U'M = 0, M V = 0 and no singular value of M exceeds 1."""
    w = columns(made(l2))
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    rank = int((s > 1e-2 * s[0]).sum())
    z = -loss_and_gradient(w)[1] / (2 * l2 * s.sum())
    np.testing.assert_allclose(u[:, :rank].T @ z @ vt[:rank].T, np.eye(rank), atol=2e-3)
    assert np.linalg.svd(z, compute_uv=False)[0] < 1 + 2e-3
    assert rank < D or l2 < 0.1


def test_no_other_solver_finds_a_lower_objective() -> None:
    """W = A B' with |W|_tr the least (|A|^2 + |B|^2) / 2, by scipy, from random starts."""
    wide, found = 2 * len(SIZES), objective(columns(made()))

    def value(ab: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = np.split(ab.reshape(-1, D), [D])
        loss, gradient = loss_and_gradient(a.T @ b.T)
        half = (ab**2).sum() / 2
        return loss + L2 * half**2, np.vstack(
            [(gradient @ b).T + 2 * L2 * half * a, gradient.T @ a.T + 2 * L2 * half * b]
        ).ravel()

    for seed in range(3):
        start = numbers(seed, (D + wide) * D).numpy()
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
        best = scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        assert found == pytest.approx(best.fun, rel=1e-6)


def test_the_penalty_is_the_square_of_the_trace_norm_and_d_is_as_in_the_paper() -> None:
    """D = (W W')^1/2 / trace, where W solves the ridge regressions with penalty l2 D^-1."""
    learner = made(l2=0.05)  # all directions are used, so that D can be inverted
    w, d = columns(learner), learner.directions().detach().numpy()
    u, s, _ = np.linalg.svd(w, full_matrices=False)
    np.testing.assert_allclose(d, (u * s) @ u.T / s.sum(), atol=1e-3)
    assert np.trace(d) == pytest.approx(1)
    penalty = np.trace(w.T @ np.linalg.solve(d, w))
    assert penalty == pytest.approx(np.linalg.norm(w, "nuc") ** 2, rel=1e-3)


def test_a_new_task_is_a_ridge_regression_under_d() -> None:
    learner = made(l2=0.05)
    new = examples_of(numbers(7, 3, D), numbers(8, 3, 2))
    x, y = centred(new)
    inverse = np.linalg.inv(learner.directions().detach().numpy())
    expected = np.linalg.solve(x.T @ x + 0.05 * inverse, x.T @ y)
    state = learner(new, SPEC).state
    np.testing.assert_allclose(state["weight"].detach(), expected, rtol=1e-6)
    offset = new.targets.mean(0).numpy() - new.inputs.mean(0).numpy() @ expected
    np.testing.assert_allclose(state["offset"].detach(), offset, rtol=1e-6)


def test_the_alternating_steps_are_the_papers() -> None:
    """Written with the inverse of D, on all rows."""
    learner = qs.TraceNorm(Features(D)).double()
    stacks = stacked(read_tasks(learner, learner.backbone, named(), SPEC))
    d, smoothing = np.eye(D) / D, None
    for _ in range(3):
        parts = [np.linalg.solve(x.T @ x + L2 * np.linalg.inv(d), x.T @ y)
                 for x, y in map(centred, named().values())]  # fmt: skip
        w = np.hstack(parts)
        smoothing = smoothing or 0.01 * (w**2).sum() / D
        values, vectors = np.linalg.eigh(w @ w.T + smoothing * np.eye(D))
        root = (vectors * np.sqrt(values)) @ vectors.T
        d = root / np.trace(root)
    found = alternated(stacks, L2, 0.01, 3)
    np.testing.assert_allclose(found @ found.mT, d, rtol=1e-8)


def test_the_gap_bounds_the_distance_from_the_optimum() -> None:
    learner = qs.TraceNorm(Features(D)).double()
    stacks = stacked(read_tasks(learner, learner.backbone, named(), SPEC))
    least = objective(columns(made()))
    for seed in range(20):
        root = unit_trace(numbers(seed, D, D))
        with torch.no_grad():
            learner.root.copy_(root)
            learner.log_l2.fill_(np.log(L2))
        above = objective(columns(learner)) - least
        assert above <= duality_gap(stacks, root, L2) + 1e-9
    best = made().root.detach()
    at_zero = sum((y**2).sum() for _, y in map(centred, named().values()))
    assert duality_gap(stacks, unit_trace(best), L2) < 1.01e-7 * at_zero


def test_too_few_iterations_give_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"above the optimum.*asked was 1.0e-07. Raise most_iter"):
        made(most_iterations=1)


def test_planted_directions_are_found_and_the_penalty_is_chosen() -> None:
    """Weights of 30 tasks lie in a plane of 10 dimensions; new tasks of 4 rows profit."""
    plane = torch.linalg.qr(numbers(1, 10, 2))[0]

    def task(seed: int, n: int) -> qs.Examples:
        x = numbers(seed, n, 10)
        y = x @ (plane @ numbers(seed + 1000, 2, 1)) + 0.3 * numbers(seed + 2000, n, 1)
        return examples_of(x, y)

    tasks = {str(seed): task(seed, 12) for seed in range(30)}
    learner = qs.TraceNorm(Features(10)).double()
    learner.learn_from(tasks, qs.regression(), l2=[0.01, 0.1, 1e4], folds=3, tolerance=1e-3)
    assert learner.log_l2.exp() < 1  # the last one predicts the mean
    d = learner.directions().detach()
    assert (plane.mT @ d @ plane).trace() > 0.8  # of a trace of 1; a fifth where nothing is learnt
    errors = {"found": 0.0, "alone": 0.0}
    for seed in range(100, 130):
        rows = task(seed, 54)
        few = examples_of(rows.inputs[:4], rows.targets[:4])
        alone = qs.LinearProbe(Features(10), l2=0.3).double()
        for name, model in (("found", learner), ("alone", alone)):
            wrong = model(few, qs.regression())(rows.inputs[4:]).detach() - rows.targets[4:]
            errors[name] += float(wrong.square().mean())
    assert errors["found"] < 0.7 * errors["alone"]


@pytest.mark.parametrize("source", [planes(2, missing=True), yes_or_no(2)])
def test_the_contract_holds_after_learning(source: qs.TaskSource) -> None:
    learner = qs.TraceNorm(MLP(4, (6, 6))).double().eval()
    tasks = [doubled(source(torch.Generator().manual_seed(seed))) for seed in range(4)]
    rows = {str(number): task.support for number, task in enumerate(tasks)}
    check_learner(learner.learn_from(rows, tasks[0].spec), source)


def test_what_was_learnt_is_saved(tmp_path: Path) -> None:
    rows = {name: qs.examples(*map(Tensor.float, task[:2])) for name, task in named().items()}
    learner = qs.TraceNorm(Features(D)).learn_from(rows, SPEC, l2=2.0)
    predictor = learner(rows["0"], SPEC)
    loaded = qs.load(qs.save(predictor, tmp_path / "new.safetensors"))
    assert torch.equal(loaded(rows["0"].inputs), predictor(rows["0"].inputs))
    assert torch.equal(loaded.learner.root, learner.root)


def test_wrong_calls_are_refused() -> None:
    learner = qs.TraceNorm(Features(D)).double()
    with pytest.raises(ValueError, match="must be positive; found l2=-1"):
        qs.TraceNorm(Features(D), l2=-1)
    with pytest.raises(ValueError, match="needs positive l2, epsilon, tolerance"):
        learner.learn_from(named(), SPEC, l2=[1.0, 0.0])
    with pytest.raises(ValueError, match="needs positive l2, epsilon, tolerance"):
        learner.learn_from(named(), SPEC, tolerance=0.0)
    with pytest.raises(ValueError, match="at least one task; found none"):
        learner.learn_from({}, SPEC)


def test_the_gradient_of_the_descent_is_that_of_the_objective() -> None:
    """By autograd, for a root of any length; the objective is that of the best weights, but for
    what no weight can fit."""
    learner = qs.TraceNorm(Features(D)).double()
    stacks = stacked(read_tasks(learner, learner.backbone, named(), SPEC))

    def whole(root: Tensor) -> Tensor:
        d, total = root @ root.mT / root.square().sum(), torch.tensor(0.0).double()
        for rows in named().values():
            x, y = map(torch.from_numpy, centred(rows))
            kernel = torch.eye(len(x)) + x @ d @ x.mT / L2
            total = total + (y * torch.linalg.solve(kernel, y)).sum()
        return total

    root, other = (3 * numbers(4, D, D)).requires_grad_(), numbers(5, D, D)
    (expected,) = torch.autograd.grad(whole(root), root)
    value, gradient = objective_of(stacks, root.detach(), L2)
    torch.testing.assert_close(gradient, expected)
    difference = float(whole(root.detach()) - whole(other))
    assert value - objective_of(stacks, other, L2)[0] == pytest.approx(difference)
