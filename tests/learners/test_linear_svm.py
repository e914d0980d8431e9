"""The linear support vector machine reaches the minimum of its problem, as scipy finds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import LinearSVC
from torch import nn

import quickstudy as qs
from quickstudy.core import Examples

MADE = np.random.default_rng(0)
X, W = MADE.normal(size=(60, 4)), MADE.uniform(0.2, 2, 60)
QUERIES = torch.from_numpy(MADE.normal(size=(100, 4)))


def rows(targets: np.ndarray, x: np.ndarray = X) -> Examples:
    groups = torch.zeros(len(x), dtype=torch.long)
    return Examples(torch.from_numpy(x), torch.from_numpy(targets), torch.from_numpy(W), groups)


def least(loss: object) -> np.ndarray:
    """The minimiser (5,) of |v|^2 / 2 + sum_i w_i loss_i."""

    def value(v: np.ndarray) -> float:
        return float(v @ v / 2 + W @ loss(X @ v[:4] + v[4]))  # type: ignore[operator]

    found: np.ndarray = minimize(value, np.zeros(5), tol=1e-14, options={"maxiter": 5000}).x
    return found


def test_two_classes_reach_the_minimum() -> None:
    y = (X[:, 0] + MADE.normal(size=60) > 0).astype(int)
    best = least(lambda f: 0.7 * np.maximum(0, 1 - (2 * y - 1) * f) ** 2)
    logits = qs.LinearSVM(nn.Identity(), C=0.7).double()(rows(y), qs.classification(2))(QUERIES)
    expected = QUERIES.numpy() @ best[:4] + best[4]
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), expected, atol=1e-5)


def test_real_targets_reach_the_minimum() -> None:
    y = X[:, :1] ** 2 + 3
    best = least(lambda f: 0.7 * np.maximum(0, abs(f - y[:, 0]) - 0.2) ** 2)
    learner = qs.LinearSVM(nn.Identity(), C=0.7, epsilon=0.2).double()
    found = learner(rows(y), qs.regression())(QUERIES)
    np.testing.assert_allclose(found[:, 0].numpy(), QUERIES.numpy() @ best[:4] + best[4], atol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_more_classes_equal_those_of_scikit_learn_also_sparse(share: float) -> None:
    x = X * (np.random.default_rng(1).random(X.shape) < share)
    y = np.arange(60) % 3
    machine = LinearSVC(tol=1e-10, dual=False, max_iter=10_000).fit(x, y, sample_weight=W)
    found = qs.LinearSVM(nn.Identity()).double()(rows(y, x), qs.classification(4))(QUERIES)
    np.testing.assert_allclose(
        found[:, :3].numpy(), machine.decision_function(QUERIES.numpy()), atol=1e-6
    )
    assert (found.softmax(-1)[:, 3] == 0).all()


def test_one_class_alone_and_none() -> None:
    spec, learner = qs.classification(3), qs.LinearSVM(nn.Identity()).double()
    found = learner(rows(np.full(60, 2)), spec)(QUERIES)
    assert (found.argmax(1) == 2).all()
    nothing = rows(np.full(60, -1))
    found = learner(nothing, spec)(QUERIES)
    assert (found == found[:, :1]).all()
    unknown = rows(np.full((60, 1), np.nan))
    assert (learner(unknown, qs.regression(missing=True))(QUERIES) == 0).all()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"C and tol must be positive.*found C=0"):
        qs.LinearSVM(nn.Identity(), C=0)
