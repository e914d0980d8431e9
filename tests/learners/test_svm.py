"""The support vector machine equals scikit-learn's, which solves the same problem."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, SVR
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.core import Examples, TaskSpec


def rows(ways: int, n: int = 60, spread: float = 1.0, seed: int = 0) -> Examples:
    """Overlapping classes with weights between 0.2 and 2, in float64."""
    made = np.random.default_rng(seed)
    y = np.arange(n) % ways
    x = spread * (made.normal(size=(n, 4)) + 0.7 * made.normal(size=(ways, 4))[y])
    weights = torch.from_numpy(made.uniform(0.2, 2, n))
    return examples_of(torch.from_numpy(x), torch.from_numpy(y), weights)


def queries(n: int = 400) -> Tensor:
    return 1.5 * torch.from_numpy(np.random.default_rng(9).normal(size=(n, 4)))


def values(learner: qs.SVM, support: Examples, spec: TaskSpec, x: Tensor) -> np.ndarray:
    found: np.ndarray = learner.double()(support, spec)(x).numpy()
    return found


def fitted(support: Examples, **options: object) -> SVC:
    x, y, w = (t.numpy() for t in support[:3])
    return SVC(tol=1e-10, **options).fit(x, y, sample_weight=w)


@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("ways", [2, 3, 5])
def test_decisions_and_classes_equal_those_of_scikit_learn(
    ways: int, kernel: str, C: float
) -> None:
    support, x = rows(ways), queries()
    spec = qs.classification(ways)
    for ties in (True, False):
        expected = fitted(support, C=C, kernel=kernel, gamma=0.3, break_ties=ties and ways > 2)
        found = values(qs.SVM(nn.Identity(), kernel, C, 0.3, ties), support, spec, x)
        assert (found.argmax(1) == expected.predict(x.numpy())).all()
        if ties:
            decisions = found[:, 1] - found[:, 0] if ways == 2 else found
            np.testing.assert_allclose(
                decisions, expected.decision_function(x.numpy()), rtol=0, atol=1e-7
            )


def test_ties_between_classes_are_broken_as_scikit_learn_breaks_them() -> None:
    """Where regions of 5 classes meet, some win equally many votes; then the rules differ."""
    support, x = rows(5), queries(4000)
    spec, differ = qs.classification(5), {}
    for ties in (True, False):
        expected = fitted(support, kernel="linear", break_ties=ties).predict(x.numpy())
        learner = qs.SVM(nn.Identity(), "linear", break_ties=ties)
        differ[ties] = values(learner, support, spec, x).argmax(1)
        assert (differ[ties] == expected).all()
    assert (differ[True] != differ[False]).any()


@pytest.mark.parametrize("kind", ["scale", "auto", 0.7])
def test_gamma_means_what_it_means_in_scikit_learn(kind: str | float) -> None:
    support = rows(3)._replace(weights=torch.ones(60).double())
    expected = fitted(support, gamma=kind)
    found = values(qs.SVM(nn.Identity(), gamma=kind), support, qs.classification(3), queries())
    np.testing.assert_allclose(found, expected.decision_function(queries().numpy()), atol=1e-7)


def test_gamma_of_weighted_rows_is_that_of_repeated_ones() -> None:
    support = rows(2)._replace(weights=torch.arange(60).double() % 3)
    repeated = torch.arange(60).repeat_interleave(support.weights.long())
    x, y = support.inputs[repeated], support.targets[repeated]
    expected = SVC(tol=1e-10).fit(x.numpy(), y.numpy()).decision_function(queries().numpy())
    found = values(qs.SVM(nn.Identity()), support, qs.classification(2), queries())
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected, atol=1e-7)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_regression_equals_that_of_scikit_learn_column_by_column(kernel: str) -> None:
    support, made = rows(2), np.random.default_rng(1)
    y = np.stack([support.inputs[:, 0].sin().numpy(), 3 * made.normal(size=60)], 1)
    y[::4, 1] = np.nan
    support = support._replace(targets=torch.from_numpy(y))
    spec, learner = qs.regression(2, missing=True), qs.SVM(nn.Identity(), kernel, 2.0, 0.3)
    found = values(learner, support, spec, queries())
    for column in range(2):
        known = ~np.isnan(y[:, column])
        x, w = support.inputs.numpy()[known], support.weights.numpy()[known]
        machine = SVR(C=2.0, kernel=kernel, gamma=0.3, tol=1e-10)
        machine.fit(x, y[known, column], sample_weight=w)
        np.testing.assert_allclose(
            found[:, column], machine.predict(queries().numpy()), rtol=0, atol=1e-6
        )


def test_two_classes_solve_the_primal_problem() -> None:
    """An independent solution: the primal with slack variables, as a quadratic program."""
    support, C = rows(2, 12), 0.8
    x, w = support.inputs.numpy(), support.weights.numpy()
    sign = 2.0 * support.targets.numpy() - 1

    def constraint(v: np.ndarray) -> np.ndarray:
        kept: np.ndarray = sign * (x @ v[:4] + v[4]) - 1 + v[5:]
        return kept

    solved = minimize(
        lambda v: v[:4] @ v[:4] / 2 + C * w @ v[5:], np.zeros(17), method="SLSQP",
        bounds=[(None, None)] * 5 + [(0, None)] * 12,
        constraints={"type": "ineq", "fun": constraint}, options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    found = values(qs.SVM(nn.Identity(), "linear", C), support, qs.classification(2), queries())
    expected = queries().numpy() @ solved.x[:4] + solved.x[4]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected, atol=1e-5)


def test_rows_without_weight_or_label_and_absent_classes_do_not_count() -> None:
    support = rows(3)
    weights, targets = support.weights.clone(), support.targets.clone()
    weights[targets == 1] = 0
    targets[0] = -1
    kept = (weights > 0) & (targets >= 0)
    x, y, w = (t[kept].numpy() for t in (support.inputs, targets, weights))
    expected = SVC(tol=1e-10, gamma="auto").fit(x, y, sample_weight=w)
    changed = support._replace(weights=weights, targets=targets)
    learner = qs.SVM(nn.Identity(), gamma="auto")
    found = values(learner, changed, qs.classification(3), queries())
    assert (found.argmax(1) == expected.predict(queries().numpy())).all()
    assert (torch.from_numpy(found).softmax(-1)[:, 1] == 0).all()


def test_one_class_alone_wins_and_none_leaves_all_equal() -> None:
    support = rows(3)._replace(targets=torch.full((60,), 2))
    learner, spec = qs.SVM(nn.Identity()), qs.classification(3)
    assert (values(learner, support, spec, queries()).argmax(1) == 2).all()
    nothing = support._replace(weights=torch.zeros(60).double())
    found = values(learner, nothing, spec, queries())
    assert (found == found[:, :1]).all()
    real = nothing._replace(targets=torch.ones(60, 1).double())
    assert (values(learner, real, qs.regression(1), queries()) == 0).all()


def test_float32_decides_as_float64() -> None:
    """Away from a boundary of classes: within 1e-4 of the decisions in float64."""
    support, spec = rows(5), qs.classification(5)
    single = Examples(*(t.float() if t.is_floating_point() else t for t in support))
    expected = values(qs.SVM(nn.Identity()), support, spec, queries())
    found = qs.SVM(nn.Identity())(single, spec)(queries().float())
    assert found.dtype == torch.float32
    # A pair of classes at its boundary may vote otherwise, and votes are whole numbers.
    near = np.abs(found.numpy() - expected).max(1) < 1e-4
    assert near.mean() > 0.99


def test_features_of_any_size_end_in_bounded_time() -> None:
    for size in (1e-20, 1e-4, 1e4, 1e8):
        support = rows(2, spread=size)
        for kernel in ("rbf", "linear"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                found = values(
                    qs.SVM(nn.Identity(), kernel), support, qs.classification(2), size * queries()
                )
            assert np.isfinite(found).all()


def test_invalid_arguments_are_refused() -> None:
    for options, message in (
        ({"C": 0.0}, "C and tol must be positive.*found C=0"),
        ({"kernel": "poly"}, "kernel must be 'rbf' or 'linear'; found 'poly'"),
        ({"gamma": "wide"}, "gamma must be 'scale', 'auto' or a positive number; found 'wide'"),
        ({"gamma": -1.0}, "found -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            qs.SVM(nn.Identity(), **options)  # type: ignore[arg-type]
