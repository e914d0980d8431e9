"""MetaOptNet's support vector machine equals scikit-learn's, scipy's and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.learners.metric import svm
from quickstudy.learners.metric.svm import crammer_singer


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def classes(n: int, ways: int, size: float = 1.0, features: int = 6) -> tuple[Tensor, Tensor]:
    """Features (n, d) around a centre per class, and one-hot targets."""
    targets = torch.eye(ways, dtype=torch.float64)[torch.arange(n) % ways]
    return size * (numbers(1, n, features) + targets @ numbers(2, ways, features)), targets


def loss(weight: Tensor, x: Tensor, y: Tensor, w: Tensor, C: float) -> Tensor:
    """The primal objective as the paper writes it."""
    answers = x @ weight
    slack = (answers + 1 - y).amax(1) - (answers * y).sum(1)
    return weight.square().sum() / 2 + C * (w * slack).sum()


@pytest.mark.parametrize("C", [0.001, 0.1, 10.0])
@pytest.mark.parametrize(("n", "ways"), [(5, 5), (12, 3), (20, 2)])
def test_weight_equals_that_of_scikit_learn(n: int, ways: int, C: float) -> None:
    from sklearn.svm import LinearSVC

    x, y = classes(n, ways)
    machine = LinearSVC(
        multi_class="crammer_singer", C=C, fit_intercept=False, tol=1e-10, max_iter=1_000_000
    ).fit(x.numpy(), y.argmax(1).numpy())
    found = crammer_singer(x, y, torch.ones(n, dtype=torch.float64), C)
    if ways == 2:  # of two classes, scikit-learn keeps the difference alone
        found = found[:, 1:] - found[:, :1]
    np.testing.assert_allclose(found, machine.coef_.T, rtol=0, atol=1e-6 * float(found.norm()))


def test_weight_equals_that_of_a_quadratic_program() -> None:
    x, y = classes(7, 3)
    w = torch.tensor([1, 2, 0.5, 1, 1, 3, 1], dtype=torch.float64)
    cap = 0.1 * (w[:, None] * y).numpy()
    gram, labels = (x @ x.mT).numpy(), y.numpy()

    def dual(flat: np.ndarray) -> tuple[float, np.ndarray]:
        a = flat.reshape(7, 3)
        return (a * (gram @ a)).sum() / 2 - (a * labels).sum(), (gram @ a - labels).ravel()

    solved = minimize(
        dual, np.zeros(21), jac=True, method="SLSQP",
        bounds=[(None, float(b)) for b in cap.ravel()],
        constraints={"type": "eq", "fun": lambda a: a.reshape(7, 3).sum(1)},
        options={"ftol": 1e-15, "maxiter": 2000},
    )  # fmt: skip
    found = crammer_singer(x, y, w, 0.1)
    np.testing.assert_allclose(found, x.numpy().T @ solved.x.reshape(7, 3), atol=1e-6)


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("C", [0.1, 10.0])
def test_no_weight_nearby_is_better(size: float, C: float) -> None:
    """First order: the loss is convex, so from its minimum it decreases in no direction."""
    x, y = classes(30, 5, size)
    w = torch.ones(30, dtype=torch.float64)
    found = crammer_singer(x, y, w, C)
    least = loss(found, x, y, w, C)
    for seed in range(100):
        direction = numbers(seed, *found.shape)
        for length in (1e-2, 1e-4, 1e-6):
            near = found + length * found.norm() * direction / direction.norm()
            assert loss(near, x, y, w, C) >= least * (1 - 1e-13)


@pytest.mark.parametrize(("n", "ways"), [(5, 5), (16, 4)])
def test_gradient_equals_that_of_finite_differences(n: int, ways: int) -> None:
    x, y = classes(n, ways)
    w = 1 + 0.5 * numbers(4, n).abs()
    upstream = numbers(3, x.shape[1], ways)

    def value(x: Tensor, w: Tensor) -> Tensor:
        return (upstream * crammer_singer(x, y, w, 0.1)).sum()

    inputs = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    gradients = torch.autograd.grad(value(*inputs), inputs)
    assert all(float(g.norm()) > 1e-3 for g in gradients)
    h = 1e-5
    for along in range(2):
        for seed in range(5):
            move = [torch.zeros_like(x), torch.zeros_like(w)]
            move[along] = numbers(10 + seed, *move[along].shape)
            ahead, back = (
                value(x + sign * h * move[0], w + sign * h * move[1]) for sign in (1, -1)
            )
            expected = float((ahead - back) / (2 * h))
            assert float((gradients[along] * move[along]).sum()) == pytest.approx(
                expected, rel=1e-5, abs=1e-7
            )


@pytest.mark.parametrize(("n", "ways", "size"), [(5, 5, 1.0), (25, 5, 10.0), (40, 8, 0.1)])
def test_steps_end_where_further_ones_would_change_nothing(
    n: int, ways: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = classes(n, ways, size)
    w, steps, step = torch.ones(n, dtype=torch.float64), [], svm._mehrotra_step
    monkeypatch.setattr(svm, "_mehrotra_step", lambda *inputs: steps.append(1) or step(*inputs))
    found, needed = crammer_singer(x, y, w, 0.1), len(steps)
    mapped = torch.func.vmap(crammer_singer, (0, 0, 0, None))(x[None], y[None], w[None], 0.1)
    assert len(steps) == needed + svm.STEPS
    monkeypatch.setattr(svm, "_converged", lambda *_: False)
    expected = crammer_singer(x, y, w, 0.1)
    assert 3 < needed < svm.STEPS == len(steps) - needed - svm.STEPS
    tolerance = 1e-12 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(mapped[0], expected, rtol=0, atol=tolerance)


def test_classes_and_rows_without_weight_do_not_count() -> None:
    x, y = classes(12, 4)
    w = torch.ones(12, dtype=torch.float64) * (y[:, 3] == 0)
    w[0] = 0
    kept = w > 0
    found = crammer_singer(x, y, w, 0.1)
    expected = crammer_singer(x[kept], y[kept, :3], w[kept], 0.1)
    torch.testing.assert_close(found[:, :3], expected)
    assert torch.equal(found[:, 3], torch.zeros(6, dtype=torch.float64))


def test_one_class_alone_needs_no_weight() -> None:
    x, y = classes(3, 2)
    found = crammer_singer(x, y, y[:, 0], 0.1)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


def test_logits_are_scaled_outputs_of_the_machine() -> None:
    torch.manual_seed(0)
    learner = qs.MetaOptNet(MLP(4, (8, 8)), C=0.3, scale=3.0).double()
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    rows = examples_of(numbers(1, 5, 4), torch.tensor([0, 1, 0, 1, -1]), weights)
    queries = numbers(2, 6, 4)
    y = torch.eye(2, dtype=torch.float64)[rows.targets[:4]]
    weight = crammer_singer(learner.backbone(rows.inputs[:4]), y, weights[:4], 0.3)
    found = learner(rows, qs.classification(2))(queries)
    torch.testing.assert_close(found, 3 * learner.backbone(queries) @ weight, rtol=1e-6, atol=1e-9)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="C > 0 and scale > 0; found C=0"):
        qs.MetaOptNet(MLP(4), C=0)
