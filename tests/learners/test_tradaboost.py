"""TrAdaBoost equals the paper's equations, computed again in numpy with scikit-learn's machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Examples
from quickstudy.learners.domains.tradaboost import hard_loss, soft_loss, source_beta

SPEC = qs.classification(2)


def problem(seed: int, agrees: float = 0.5) -> tuple[Examples, Tensor]:
    """60 source rows, of which a share follows the target's rule, 12 target rows; 200 queries."""
    made = np.random.default_rng(seed)
    x = made.normal(size=(72, 3))
    target_rule, other_rule = x[:, 0] + 0.3 * x[:, 1] > 0, x[:, 0] - 2 * x[:, 2] > 0
    y = np.where((np.arange(72) >= 60) | (made.random(72) < agrees), target_rule, other_rule)
    y[65] = ~y[65]  # so that few machines are right on all target rows
    groups = torch.from_numpy((np.arange(72) < 60).astype(int))
    weights = torch.from_numpy(made.integers(1, 3, 72)).double()
    rows = Examples(torch.from_numpy(x), torch.from_numpy(y.astype(int)), weights, groups)
    return rows, torch.from_numpy(made.normal(size=(200, 3)))


def by_the_paper(rows: Examples, queries: Tensor, N: int, hard: bool) -> tuple[np.ndarray, int]:
    """The paper's sum of logarithms: positive where the final hypothesis is class 1, (queries,).

    With the number of rounds that may vote.
    """
    x, y, w, g = (t.numpy() for t in rows)
    source, target = np.flatnonzero(g != 0), np.flatnonzero(g == 0)
    ws, wt, total = w[source].copy(), w[target].copy(), w.sum()
    beta = 1 / (1 + np.sqrt(2 * np.log(w[source].sum()) / N))
    exponents = []
    for _ in range(N):
        p = np.empty(len(x))
        p[source], p[target] = ws, wt
        p = p / (ws.sum() + wt.sum()) * total
        machine = LinearSVC(dual=False, tol=1e-9, max_iter=1000).fit(x, y, sample_weight=p)

        def h(z: np.ndarray, machine: LinearSVC = machine) -> np.ndarray:
            f = machine.decision_function(z)
            found: np.ndarray = (f > 0).astype(float) if hard else 1 / (1 + np.exp(-f))
            return found

        off_source, off_target = abs(h(x[source]) - y[source]), abs(h(x[target]) - y[target])
        epsilon = (wt * off_target).sum() / wt.sum()
        if epsilon == 0:  # its vote is infinite
            return h(queries.numpy()) - 0.5, 1
        if epsilon >= 0.5:
            break
        beta_t = epsilon / (1 - epsilon)
        ws, wt = ws * beta**off_source, wt * beta_t**-off_target
        exponents.append((np.log(1 / beta_t), h(queries.numpy())))
    last = exponents[int(np.ceil(len(exponents) / 2)) - 1 :]
    # prod beta_t^-h >= prod beta_t^-1/2, in logarithms
    decision: np.ndarray = sum(a * h for a, h in last) - sum(a / 2 for a, _ in last)
    return decision / sum(a for a, _ in last), len(exponents)


@pytest.mark.filterwarnings("ignore:TrAdaBoost. stopped in round")
@pytest.mark.parametrize("loss", [soft_loss, hard_loss])
@pytest.mark.parametrize("rounds", [1, 4, 7])
def test_votes_equal_those_of_the_paper(rounds: int, loss: object) -> None:
    for seed in range(3):
        rows, queries = problem(seed)
        expected, fitted = by_the_paper(rows, queries, rounds, loss is hard_loss)
        learner = qs.TrAdaBoost(nn.Identity(), rounds, loss).double()  # type: ignore[arg-type]
        predictor = learner(rows, SPEC)
        found = predictor(queries).exp()[:, 1].numpy() - 0.5
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert int(predictor.state["rounds"]) == fitted
        assert loss is hard_loss or fitted == rounds
        assert len(predictor.state["learners"]) == fitted - int(np.ceil(fitted / 2)) + 1


@pytest.mark.filterwarnings("ignore:TrAdaBoost. stopped in round")
def test_harmful_source_rows_lose_and_helpful_ones_keep_their_weight() -> None:
    """For each of 10 seeds, rows of the wrong rule end with less weight than those of the right."""
    seen: list[Tensor] = []

    class Watched(qs.LinearProbe):
        def adapt(self, support: Examples, spec: object) -> object:
            seen.append(support.weights)
            return super().adapt(support, spec)  # type: ignore[arg-type]

    for seed in range(10):
        rows, _ = problem(seed)
        rule = rows.inputs[:60, 0] + 0.3 * rows.inputs[:60, 1] > 0
        right = rows.targets[:60] == rule
        rows = rows._replace(weights=torch.ones(72).double())
        qs.TrAdaBoost(Watched(nn.Identity()), 10).double()(rows, SPEC)
        last = seen[-1][:60]
        assert last[right].mean() > last[~right].mean()


def test_the_factor_of_source_rows_is_the_papers() -> None:
    assert source_beta(torch.tensor(100.0), 20) == pytest.approx(
        1 / (1 + (2 * np.log(100) / 20) ** 0.5)
    )
    assert source_beta(torch.tensor(0.0), 20) == 1


def test_a_hard_loss_that_is_0_at_once_ends_in_the_pooled_learner_and_says_so() -> None:
    rows, queries = problem(0, agrees=1.0)
    rows = rows._replace(targets=(rows.inputs[:, 0] > 0).long())
    learner = qs.TrAdaBoost(qs.LinearSVM(nn.Identity(), C=1000.0), 10, hard_loss).double()
    with pytest.warns(RuntimeWarning, match=r"stopped in round 1 of 10.*right on all.*soft_loss"):
        predictor = learner(rows, SPEC)
    pooled = qs.LinearSVM(nn.Identity(), C=1000.0).double()(rows, SPEC)(queries)
    assert torch.equal(predictor(queries).argmax(1), pooled.argmax(1))
    assert predictor.state["betas"].tolist() == [0]


def test_a_base_learner_worse_than_chance_stops_it_and_says_so() -> None:
    rows, queries = problem(0)
    source = rows.groups != 0
    rule = rows.inputs[:, 0] > 0
    rows = rows._replace(
        targets=torch.where(source, rule, ~rule).long(), weights=torch.ones(72).double()
    )
    learner = qs.TrAdaBoost(qs.LinearProbe(nn.Identity()), 10).double()
    with pytest.warns(RuntimeWarning, match="not below that of chance; it alone decides"):
        predictor = learner(rows, SPEC)
    assert len(predictor.state["learners"]) == 1
    assert predictor(queries).isfinite().all()


def test_without_labelled_target_rows_the_source_decides_and_it_says_so() -> None:
    rows, queries = problem(0)
    hidden = rows._replace(targets=torch.where(rows.groups == 0, -1, rows.targets))
    with pytest.warns(RuntimeWarning, match="needs labelled target rows.*found none"):
        found = qs.TrAdaBoost(nn.Identity()).double()(hidden, SPEC)(queries)
    source = Examples(*(t[:60] for t in rows))
    expected = qs.LinearSVM(nn.Identity()).double()(source, SPEC)(queries)
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_rows_without_any_weight_leave_all_classes_equal() -> None:
    rows, queries = problem(0)
    found = qs.TrAdaBoost(nn.Identity()).double()(
        rows._replace(weights=torch.zeros(72).double()), SPEC
    )(queries)
    assert (found == found[:, :1]).all()


def test_more_classes_are_boosted_as_long_as_rounds_beat_chance() -> None:
    """Of 3 classes, an error of 0.6 is better than chance, 2/3: rounds go on, by SAMME's b_t."""
    made = np.random.default_rng(0)
    x = torch.from_numpy(made.normal(size=(90, 2)))
    y = torch.from_numpy(made.integers(0, 3, 90))
    groups = (torch.arange(90) < 60).long()
    rows = Examples(x + 0.1 * torch.eye(3).double()[y][:, :2], y, torch.ones(90).double(), groups)
    predictor = qs.TrAdaBoost(nn.Identity(), 4).double()(rows, qs.classification(3))
    assert int(predictor.state["rounds"]) == 4
    assert bool((predictor.state["betas"] > 0.5).any())
    assert bool((predictor.state["betas"] < 1).all())


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1; found 0"):
        qs.TrAdaBoost(nn.Identity(), 0)
    with pytest.raises(ValueError, match="needs a base learner of Classes; found TrAdaBoostR2"):
        qs.TrAdaBoost(qs.TrAdaBoostR2(nn.Identity()))
    with pytest.raises(ValueError, match="counts rows by their weights"):
        qs.TrAdaBoost(qs.LinearProbe(nn.BatchNorm1d(3)))


@pytest.mark.parametrize("ways", [2, 3, 5, 7])
def test_an_error_that_rounds_to_just_below_chance_is_chance(ways: int) -> None:
    """Of constant features, 1 - 1 / ways: the votes ln(1 / b) of b = 1 - 1e-16 were 0 / 0."""
    rows = qs.examples(torch.ones(2 * ways, 3), [*range(ways)] * 2)
    with pytest.warns(RuntimeWarning, match="not below that of chance; it alone decides"):
        predictor = qs.TrAdaBoost(nn.Identity(), rounds=3)(rows, qs.classification(ways))
    assert bool(predictor(rows.inputs).isfinite().all())
