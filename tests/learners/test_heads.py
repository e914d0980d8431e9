"""Ridge and logistic heads equal scikit-learn's, are optimal, and have the right derivatives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.func import vmap

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.learners.transfer.heads import logistic, ridge, ridge_weight

L2 = (1e-2, 1e-1, 1.0, 1e2)
SHAPES = {"d < n": (30, 4, 3), "d > n": (15, 40, 5), "d = n": (12, 12, 3), "1 shot": (5, 16, 5)}


def problem(n: int, d: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of unit scale around class centres, class ids, uneven weights with one of 0."""
    generator = torch.Generator().manual_seed(n + d)
    ids = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    weights = 0.2 + 2 * torch.rand(n, generator=generator, dtype=torch.float64)
    if n > classes:
        weights[1] = 0
    return 0.5 * centres[ids] + noise, ids, weights


def one_hot(ids: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(ids, classes).double()


@pytest.mark.parametrize("l2", L2)
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_equals_scikit_learns(shape: str, l2: float) -> None:
    n, d, _ = SHAPES[shape]
    x, _, weights = problem(*SHAPES[shape])
    y = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight, offset = ridge(x, y, weights, l2)
    reference = Ridge(alpha=l2, solver="cholesky" if d <= n else "svd")
    reference.fit(x.numpy(), y.numpy(), sample_weight=weights.numpy())
    np.testing.assert_allclose(weight.numpy(), reference.coef_.T, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(offset.numpy(), reference.intercept_, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("l2", L2)
@pytest.mark.parametrize("shape", SHAPES)
def test_logistic_equals_scikit_learns(shape: str, l2: float) -> None:
    x, ids, weights = problem(*SHAPES[shape])
    classes = SHAPES[shape][2]
    weight, offset = logistic(x, one_hot(ids, classes), weights, l2)
    reference = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000, solver="newton-cg")
    reference.fit(x.numpy(), ids.numpy(), sample_weight=weights.numpy())
    np.testing.assert_allclose(weight.numpy(), reference.coef_.T, atol=1e-5)
    found = (x @ weight + offset).softmax(-1)
    np.testing.assert_allclose(found.numpy(), reference.predict_proba(x.numpy()), atol=1e-6)


def test_two_classes_share_the_penalty_of_one_weight() -> None:
    """scikit-learn has one weight v for two classes; ours are v/2 and -v/2, of half the penalty."""
    x, ids, weights = problem(30, 4, 2)
    weight, _ = logistic(x, one_hot(ids, 2), weights, l2=0.6)
    reference = LogisticRegression(C=1 / 0.3, tol=1e-12, max_iter=10_000, solver="newton-cg")
    reference.fit(x.numpy(), ids.numpy(), sample_weight=weights.numpy())
    np.testing.assert_allclose((weight[:, 1] - weight[:, 0]).numpy(), reference.coef_[0], atol=1e-6)
    torch.testing.assert_close(weight[:, 0], -weight[:, 1])


@pytest.mark.parametrize(("shape", "l2"), list(product(SHAPES, L2)))
def test_logistic_is_at_its_optimum(shape: str, l2: float) -> None:
    """By the first-order condition, without a reference implementation."""
    x, ids, weights = problem(*SHAPES[shape])
    y = one_hot(ids, SHAPES[shape][2])
    weight, offset = logistic(x, y, weights, l2)
    error = weights[:, None] * ((x @ weight + offset).softmax(-1) - y)
    curvature_at_least = l2  # of the objective along any weight, so |W - W*| <= |gradient| / l2
    gradient = (x.T @ error + l2 * weight).norm()
    assert gradient / curvature_at_least <= 1e-6 * weight.norm()
    assert error.sum(0).abs().max() <= 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_logistic_is_finite_and_accurate_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    x, ids, weights = problem(25, 8, 5)
    y = one_hot(ids, 5)
    exact_weight, exact_offset = logistic(scale * x, y, weights, 1.0)
    exact = (scale * x @ exact_weight + exact_offset).softmax(-1)
    weight, offset = logistic((scale * x).to(dtype), y.to(dtype), weights.to(dtype), 1.0)
    found = ((scale * x).to(dtype) @ weight + offset).softmax(-1)
    assert (found - exact).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [30.0, 1000.0])
@pytest.mark.parametrize("shape", ["d > n", "1 shot"])
def test_large_features_of_many_dimensions_are_fitted(
    shape: str, scale: float, dtype: torch.dtype
) -> None:
    x, ids, weights = problem(*SHAPES[shape])
    y = one_hot(ids, SHAPES[shape][2])
    weight, offset = logistic((scale * x).to(dtype), y.to(dtype), weights.to(dtype), 1.0)
    error = weights[:, None] * ((scale * x @ weight.double() + offset.double()).softmax(-1) - y)
    assert error.abs().max() < 1e-2
    if dtype == torch.float64:
        gradient = (scale * x.T @ error + weight).norm()
        assert gradient <= 1e-4 * weight.norm()


@pytest.mark.parametrize("shape", ["d < n", "d > n"])
@pytest.mark.parametrize("scale", [1e3, 1e4, 1e6])
def test_large_features_of_repeated_rows_are_fitted(shape: str, scale: float) -> None:
    """In float32 the penalty is rounded away, and the matrix would be singular."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(5, SHAPES[shape][1], generator=generator).repeat(2, 1)
    if shape == "d < n":
        x = torch.cat([x, x[:, :1]], 1)  # and a repeated feature
    x.requires_grad_()
    y, weights = torch.eye(5).repeat(2, 1), torch.ones(10)
    for head in (ridge, logistic):
        weight, offset = head(x, y, weights, 1.0)
        assert weight.isfinite().all()
        assert torch.autograd.grad(weight.sum() + offset.sum(), x)[0].isfinite().all()
    fitted = x @ ridge_weight(x, y, weights, 1.0)
    exact = x.double() @ ridge_weight(x.double(), y.double(), weights.double(), 1.0)
    torch.testing.assert_close(fitted.double(), exact, rtol=0, atol=1e-4)
    learner = qs.R2D2(torch.nn.Identity())
    support = qs.examples(x.detach(), torch.arange(5).repeat(2))
    assert learner(support, qs.classification(5))(support.inputs).isfinite().all()


@pytest.mark.parametrize("head", [ridge, logistic])
def test_absent_classes_and_absent_rows_change_nothing(head: object) -> None:
    x, ids, weights = problem(30, 4, 3)
    narrow = head(x, one_hot(ids, 3), weights, 0.5)  # type: ignore[operator]
    wide = head(x, one_hot(ids, 5), weights, 0.5)  # type: ignore[operator]
    for few, many in zip(narrow, wide, strict=True):
        torch.testing.assert_close(many[..., :3], few)
        assert torch.equal(many[..., 3:], torch.zeros_like(many[..., 3:]))
    kept = weights > 0
    fewer = head(x[kept], one_hot(ids, 3)[kept], weights[kept], 0.5)  # type: ignore[operator]
    torch.testing.assert_close(fewer[0], narrow[0])


@pytest.mark.parametrize("head", [ridge, logistic])
@pytest.mark.parametrize("shape", ["d < n", "d > n"])
def test_derivatives_are_right_with_and_without_vmap(head: object, shape: str) -> None:
    sizes = {"d < n": (8, 3, 3), "d > n": (5, 7, 3)}[shape]
    x, ids, weights = problem(*sizes)
    y = one_hot(ids, 4)  # one class is absent
    x, weights = torch.stack([x, x.flip(0)]), torch.stack([weights + 0.1, weights.flip(0) + 0.2])
    x.requires_grad_()
    weights.requires_grad_()

    def probabilities(x: Tensor, weights: Tensor) -> Tensor:
        weight, offset = head(x, y, weights, 0.5)  # type: ignore[operator]
        predicted: Tensor = (x @ weight[:, :3] + offset[:3]).softmax(-1)
        return predicted

    assert torch.autograd.gradcheck(
        lambda x, w: probabilities(x[0], w[0]), (x, weights), fast_mode=True
    )
    squares = vmap(probabilities)(x, weights).square().sum()
    together = torch.autograd.grad(squares, (x, weights))
    for i in range(2):
        alone = torch.autograd.grad(probabilities(x[i], weights[i]).square().sum(), (x, weights))
        for all_tasks, one_task in zip(together, alone, strict=True):
            torch.testing.assert_close(all_tasks[i], one_task[i], rtol=1e-8, atol=1e-10)


def test_the_probe_predicts_with_its_head_on_features() -> None:
    x, ids, _ = problem(30, 4, 3)
    torch.manual_seed(0)
    learner = qs.LinearProbe(MLP(4, (6,)), logistic, l2=0.5).double()
    support = examples_of(x, ids, torch.ones(30, dtype=torch.float64))
    with torch.no_grad():
        features = learner.backbone(x)
        found = learner(support, qs.classification(3))(x).softmax(-1)
    reference = LogisticRegression(C=2.0, tol=1e-12, max_iter=10_000, solver="newton-cg")
    reference.fit(features.numpy(), ids.numpy())
    expected = reference.predict_proba(features.numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive; found l2=0, scale=10\.0"):
        qs.LinearProbe(MLP(4), l2=0)
    with pytest.raises(ValueError, match=r"must be positive; found l2=1\.0, scale=-1"):
        qs.LinearProbe(MLP(4), scale=-1)
    support = qs.examples(torch.zeros(2, 4), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="LinearProbe: gives answers of the kind Classes, Labels"):
        qs.LinearProbe(MLP(4), logistic)(support, qs.regression())


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e15])
def test_the_logistic_head_depends_on_the_ratio_of_weights_and_penalty(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 3, generator=generator), one_hot(torch.arange(9) % 3, 3).float()
    expected = logistic(x, y, torch.ones(9), 1.0)
    found = logistic(x, y, torch.full((9,), size), size)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e4, 1e10])
def test_gradients_of_large_features_are_finite_with_an_absent_class(size: float) -> None:
    random = np.random.default_rng(0)
    rows, ids = random.standard_normal((10, 4)), torch.tensor(random.permutation(np.arange(10) % 3))
    x = torch.tensor(size * rows, dtype=torch.float32, requires_grad=True)
    weight, offset = logistic(x, one_hot(ids, 3).float(), (ids != 1).float(), 1e-3)
    (found,) = torch.autograd.grad(weight.sum() + offset[0], x)
    assert found.isfinite().all()
