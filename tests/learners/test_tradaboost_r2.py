"""Two-stage TrAdaBoost.R2 equals the papers' equations, computed again in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.linear_model import Ridge
from torch import nn

import quickstudy as qs
from quickstudy.core import Examples
from quickstudy.learners.domains.tradaboost_r2 import shifted_to_target, weighted_median

SPEC, MISSING = qs.regression(), qs.regression(missing=True)


def problem(seed: int, n: int = 30, m: int = 8, harmful: float = 1.0) -> Examples:
    """Source rows of which a half follows another line, and target rows; 1 feature."""
    made = np.random.default_rng(seed)
    x = made.normal(size=(n + m, 1))
    y = 2 * x + 1 + 0.2 * made.normal(size=x.shape)
    y[: n // 2] -= harmful * 4 * x[: n // 2] + harmful
    groups = torch.from_numpy((np.arange(n + m) < n).astype(int))
    weights = torch.ones(n + m).double()
    return Examples(torch.from_numpy(x), torch.from_numpy(y), weights, groups)


def ridge(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Ridge:
    return Ridge(alpha=1.0, tol=1e-12).fit(x, y, sample_weight=p * len(x))


def adaboost_r2(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, target: np.ndarray, N: int, z: np.ndarray
) -> np.ndarray:
    """The values at z of AdaBoost.R2 that leaves the weights of the source alone."""
    w, found, alphas = w.copy(), [], []
    for _ in range(N):
        machine = ridge(x, y, w)
        loss = abs(machine.predict(x) - y)
        loss = loss / loss.max()
        mean = (w * loss).sum()
        if mean >= 0.5:
            if not found:
                return np.asarray(machine.predict(z))
            break
        found.append(machine.predict(z))
        alphas.append(np.log((1 - mean) / mean))
        sum_before = w[target].sum()
        w[target] *= (mean / (1 - mean)) ** (1 - loss[target])
        w[target] *= sum_before / w[target].sum()
    medians = []
    for values in np.array(found).T:
        order = np.argsort(values)
        half = np.searchsorted(np.cumsum(np.array(alphas)[order]), sum(alphas) / 2)
        medians.append(values[order[half]])
    return np.array(medians)


def by_the_paper(
    rows: Examples, queries: np.ndarray, S: int, N: int
) -> tuple[np.ndarray, list[float]]:
    x, y, g = rows.inputs.numpy(), rows.targets.numpy()[:, 0], rows.groups.numpy()
    target, n, m = g == 0, (g != 0).sum(), (g == 0).sum()
    w, models, errors = np.full(n + m, 1 / (n + m)), [], []
    for t in range(1, S + 1):
        models.append(adaboost_r2(x, y, w, target, N, queries))
        left_out = 0.0
        for i in np.flatnonzero(target):  # as many folds as target rows
            p = w.copy()
            p[i] = 0
            p = p / p.sum()
            kept, z = np.arange(n + m) != i, x[i : i + 1]
            left_out += abs(adaboost_r2(x[kept], y[kept], p[kept], target[kept], N, z)[0] - y[i])
        errors.append(left_out)
        e = abs(ridge(x, y, w).predict(x) - y)
        e = e / e.max()
        goal = m / (n + m) + t / (S - 1) * (1 - m / (n + m))
        if t < S - 1:

            def share(
                rate: float, w: np.ndarray = w, e: np.ndarray = e, goal: float = goal
            ) -> float:
                other = (w * np.exp(-rate * e))[~target].sum()
                return float(w[target].sum() / (w[target].sum() + other) - goal)

            beta = np.exp(-brentq(share, 0, 1e9, xtol=1e-12))
            w = np.where(target, w, w * beta**e)
        else:
            w = np.where(target, w, 0)
        w = w / w.sum()
    return models[int(np.argmin(errors))], errors


@pytest.mark.parametrize("seed", range(4))
def test_predictions_equal_those_of_the_paper(seed: int) -> None:
    rows = problem(seed)
    queries = np.linspace(-2, 2, 30)[:, None]
    expected, errors = by_the_paper(rows, queries, S=4, N=3)
    learner = qs.TrAdaBoostR2(nn.Identity(), steps=4, rounds=3, folds=8).double()
    predictor = learner(rows, SPEC)
    np.testing.assert_allclose(predictor.state["errors"].numpy(), errors, rtol=1e-5)
    found = predictor(torch.from_numpy(queries))[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_it_beats_pooling_where_half_of_the_source_is_harmful() -> None:
    """In each of 5 seeds the error is less than half of that of one ridge on all rows."""
    x = torch.linspace(-2, 2, 50).double()[:, None]
    for seed in range(5):
        rows = problem(seed)
        pooled, ours = (
            float((learner.double()(rows, SPEC)(x) - 2 * x - 1).square().mean())
            for learner in (
                qs.LinearProbe(nn.Identity()), qs.TrAdaBoostR2(nn.Identity(), 5, 3, 4),
            )
        )  # fmt: skip
        assert ours < pooled / 2


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows, x = problem(0), torch.linspace(-2, 2, 9).double()[:, None]
    learner = qs.TrAdaBoostR2(nn.Identity(), 3, 2, 3).double()
    order = torch.randperm(38, generator=torch.Generator().manual_seed(1))
    shuffled = Examples(*(t[order] for t in rows))
    torch.testing.assert_close(learner(rows, SPEC)(x), learner(shuffled, SPEC)(x))


def test_the_target_gets_the_share_that_is_asked_for() -> None:
    made = np.random.default_rng(0)
    w, e = (torch.from_numpy(made.random(20)) for _ in range(2))
    target = torch.arange(20) < 5
    for share in (0.5, 0.9, 0.999):
        found = shifted_to_target(w / w.sum(), e, target, share)
        assert float(found[target].sum()) == pytest.approx(share)
        assert float(found.sum()) == pytest.approx(1)
    without_error = torch.where(torch.arange(20) == 10, 0.0, e)
    found = shifted_to_target(w, without_error, target, 1.0)
    assert bool((found[5:] > 0).sum() == 1)


def test_the_weighted_median_is_the_smallest_value_with_half_of_the_votes() -> None:
    values = torch.tensor([[[3.0]], [[1.0]], [[2.0]]])
    for votes, expected in (([1.0, 1, 1], 2), ([0.6, 0.2, 0.2], 3), ([0.1, 0.5, 0.4], 1)):
        assert float(weighted_median(values, torch.tensor(votes))) == expected


def test_unknown_elements_do_not_count() -> None:
    rows, x = problem(0), torch.linspace(-2, 2, 9).double()[:, None]
    hidden = rows._replace(targets=rows.targets.index_fill(0, torch.tensor([0, 35]), torch.nan))
    kept = torch.ones(38).bool().index_fill(0, torch.tensor([0, 35]), False)
    learner = qs.TrAdaBoostR2(nn.Identity(), 3, 2, 3).double()
    expected = learner(Examples(*(t[kept] for t in rows)), SPEC)(x)
    torch.testing.assert_close(learner(hidden, qs.regression(missing=True))(x), expected)


def test_without_labelled_target_rows_it_says_so() -> None:
    rows = problem(0)
    hidden = rows._replace(targets=torch.where(rows.groups[:, None] == 0, torch.nan, rows.targets))
    with pytest.warns(RuntimeWarning, match=r"needs labelled target rows.*found none"):
        found = qs.TrAdaBoostR2(nn.Identity()).double()(hidden, MISSING)(rows.inputs)
    source = Examples(*(t[:30] for t in rows))
    expected = qs.LinearProbe(nn.Identity()).double()(source, MISSING)(rows.inputs)
    torch.testing.assert_close(found, expected)


def test_nothing_and_constant_rows_give_finite_numbers() -> None:
    rows = problem(0)
    learner = qs.TrAdaBoostR2(nn.Identity(), 3, 2, 3).double()
    nothing = rows._replace(weights=torch.zeros(38).double())
    assert learner(nothing, SPEC)(rows.inputs).isfinite().all()
    constant = rows._replace(inputs=torch.ones(38, 1).double())
    assert learner(constant, SPEC)(rows.inputs).isfinite().all()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps and folds must be at least 2.*found steps=1"):
        qs.TrAdaBoostR2(nn.Identity(), steps=1)
