"""Scores of transferability equal their formulas, written out, and rank candidates."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import quickstudy as qs
from quickstudy.evaluation.log_evidence import log_me, log_me_2021
from quickstudy.evaluation.transfer_scores import (
    bhattacharyya,
    h_score,
    leep,
    nce,
    nearest_neighbours,
    shrunk_h_score,
)

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def drawn(n: int, d: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose first column says something of the class."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)), np.arange(n) % classes
    x[:, 0] += y
    return x, y


def maximal_evidence(f: np.ndarray, y: np.ndarray) -> float:
    """log N(y; 0, I / β + F F' / α) / n at the best α and β, by a search without derivatives."""
    n = len(y)

    def negative(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -40, 40))
        covariance = np.eye(n) / beta + f @ f.T / alpha
        _, volume = np.linalg.slogdet(covariance)
        return (volume + y @ np.linalg.solve(covariance, y) + n * math.log(2 * math.pi)) / 2 / n

    options = {"xatol": 1e-5, "fatol": 1e-10}
    starts = ((0, 0), (5, 2))
    return -min(minimize(negative, s, method="Nelder-Mead", options=options).fun for s in starts)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (12, 20)])
def test_logme_is_the_maximal_evidence(n: int, d: int) -> None:
    x, y = drawn(n, d, seed=n)
    expected = np.mean([maximal_evidence(x, (y == k).astype(float)) for k in range(3)])
    f, ids = torch.tensor(x), torch.tensor(y)
    assert log_me(f, ids) == pytest.approx(expected, abs=1e-5)
    assert log_me_2021(f, ids) == pytest.approx(expected, abs=1e-5)


def test_logme_of_reals_is_that_of_their_columns() -> None:
    x, y = drawn(15, 4)
    columns = np.stack([y, x[:, 1] ** 2], 1).astype(float)
    expected = np.mean([maximal_evidence(x, column) for column in columns.T])
    assert log_me(torch.tensor(x), torch.tensor(columns)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("score", [log_me, log_me_2021])
def test_logme_of_features_that_say_nothing_is_that_of_noise_alone(score: object) -> None:
    """With F = 0 the best β is n / |y|^2, and the evidence that of n numbers of this variance."""
    ids = torch.tensor([0, 0, 1, 1])
    expected = -(1 + math.log(2 * math.pi) + math.log(0.5)) / 2
    assert score(torch.zeros(4, 3), ids) == pytest.approx(expected, abs=1e-9)  # type: ignore[operator]


def test_logme_of_targets_that_are_fitted_exactly_is_finite() -> None:
    exact = torch.eye(2).repeat(5, 1)
    assert math.isfinite(log_me(exact, torch.tensor([0, 1]).repeat(5)))


def test_nearest_neighbours_is_leave_one_out_accuracy() -> None:
    x, y = drawn(40, 3)
    for k, cosine in ((1, False), (3, False), (1, True)):
        metric = "cosine" if cosine else "euclidean"
        model = KNeighborsClassifier(k, metric=metric)
        expected = cross_val_score(model, x, y, cv=LeaveOneOut()).mean()
        found = nearest_neighbours(torch.tensor(x), torch.tensor(y), k, cosine)
        # scikit-learn gives a tie of three votes to the lowest class; we, to the nearest row.
        assert found == pytest.approx(expected, abs=0.1 if k == 3 else 1e-12)


def test_between_equally_many_votes_the_nearer_neighbour_decides() -> None:
    """Row 0 (class 0) has neighbours of class 1 at 1 and of class 0 at 2; with two votes: wrong."""
    x = torch.tensor([[0.0], [1.0], [2.0], [100.0]])
    y = torch.tensor([0, 1, 0, 1])
    # Row 1: its two neighbours are of class 0. Row 2: row 1 first. Row 3: row 2, then row 1.
    assert nearest_neighbours(x, y, 2, cosine=False) == 0.0
    assert nearest_neighbours(x, y, 3, cosine=False) == 0.0
    y = torch.tensor([0, 0, 1, 1])
    # Row 0 and row 1 see one another first; row 2 sees row 1 first; row 3 sees row 2 first.
    assert nearest_neighbours(x, y, 2, cosine=False) == 0.75


def test_h_scores_equal_their_formulas() -> None:
    from sklearn.covariance import ledoit_wolf

    x, y = drawn(30, 4)
    means = np.stack([x[y == k].mean(0) for k in y])
    expected = np.trace(np.linalg.inv(np.cov(x.T, bias=True)) @ np.cov(means.T, bias=True))
    f, ids = torch.tensor(x), torch.tensor(y)
    assert h_score(f, ids) == pytest.approx(expected, rel=1e-9)
    covariance, a = ledoit_wolf(x)
    shrunk = (1 - a) * np.trace(np.linalg.inv(covariance) @ np.cov(means.T, bias=True))
    assert shrunk_h_score(f, ids) == pytest.approx(shrunk, rel=1e-9)
    assert shrunk_h_score(torch.ones(4, 3), torch.tensor([0, 0, 1, 1])) == 0.0


def test_h_score_of_few_rows_is_as_high_as_it_can_be_but_not_the_shrunk_one() -> None:
    x = torch.randn(10, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(10) % 2
    assert h_score(x, y) == pytest.approx(1.0, abs=1e-5)  # classes - 1, though x is noise
    assert shrunk_h_score(x, y) < 0.5


@pytest.mark.parametrize("spherical", [False, True])
def test_bhattacharyya_equals_the_formula_of_determinants(spherical: bool) -> None:
    x, y = drawn(30, 3)
    # Principal components are a rotation, which changes diagonal covariances: do the same first.
    x = x - x.mean(0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2].T
    expected = 0.0
    for i, j in itertools.permutations(range(3), 2):
        a, b = (np.diag(x[y == k].var(0)) for k in (i, j))
        if spherical:
            a, b = (np.eye(3) * np.trace(s) / 3 for s in (a, b))
        both, apart = (a + b) / 2, x[y == i].mean(0) - x[y == j].mean(0)
        distance = apart @ np.linalg.inv(both) @ apart / 8
        distance += math.log(np.linalg.det(both) / math.sqrt(np.linalg.det(a @ b))) / 2
        expected -= math.exp(-distance)
    found = bhattacharyya(torch.tensor(x), torch.tensor(y), spherical=spherical)
    assert found == pytest.approx(expected, rel=1e-9)


def test_bhattacharyya_of_one_row_a_class_is_finite() -> None:
    assert bhattacharyya(torch.tensor([[0.0], [1.0], [1.1]]), torch.tensor([0, 1, 1])) <= 0
    assert bhattacharyya(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])) == pytest.approx(-2)


def test_leep_and_nce_of_a_small_table() -> None:
    """Two source classes z, two target classes y; p(y=0|z=0) = (.9+.6)/(.9+.6+.2) and so on."""
    theta = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])
    of_0, of_1 = 1.5 / 1.7, 0.5 / 1.3  # p(y=0 | z)
    terms = [
        math.log(0.9 * of_0 + 0.1 * of_1),
        math.log(0.6 * of_0 + 0.4 * of_1),
        math.log(0.2 * (1 - of_0) + 0.8 * (1 - of_1)),
    ]
    assert leep(theta, y) == pytest.approx(sum(terms) / 3, abs=1e-12)
    assert nce(theta, y) == pytest.approx(0.0, abs=1e-12)  # z = 0, 0, 1 tells y
    # z = 0, 0, 1, 1 and y = 0, 1, 1, 1: one bit for half of the rows.
    theta = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    assert nce(theta, torch.tensor([0, 1, 1, 1])) == pytest.approx(-math.log(2) / 2, abs=1e-12)


@pytest.mark.parametrize("score", [leep, nce])
def test_scores_of_probabilities_refuse_features(score: object) -> None:
    with pytest.raises(ValueError, match=r"sums to 3 .*softmax.*nearest_neighbours"):
        score(torch.tensor([[1.0, 2.0], [0.5, 0.5]]), torch.tensor([0, 1]))  # type: ignore[operator]


EVERY = [nearest_neighbours, log_me, h_score, shrunk_h_score, bhattacharyya]


@pytest.mark.parametrize("score", EVERY)
def test_every_score_of_features_prefers_those_that_separate(score: object) -> None:
    """In five of five draws, features with 3 standard deviations between classes beat noise."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(40) % 4
        noise = torch.randn(40, 6, generator=generator)
        good = noise + 3 * torch.nn.functional.one_hot(y, 6)
        rows = qs.examples(noise, y)
        found = qs.transferability({"noise": noise, "good": good}, rows, score)  # type: ignore[arg-type]
        assert found.best == "good"


@pytest.mark.parametrize("score", [*EVERY, log_me_2021])
def test_one_class_and_rows_that_do_not_fit_are_refused(score: object) -> None:
    with pytest.raises(ValueError, match="at least 2 classes; found 1"):
        score(torch.zeros(3, 2), torch.zeros(3).long())  # type: ignore[operator]
    with pytest.raises(ValueError, match="Flatten"):
        score(torch.zeros(3, 2, 2), torch.tensor([0, 1, 1]))  # type: ignore[operator]


def test_a_ranking_of_backbones_leaves_out_unlabelled_and_absent_rows() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.arange(12) % 2
    rows = qs.examples(x, y)
    more = qs.examples(
        torch.cat([x, 9 * torch.ones(2, 4)]), torch.cat([y, torch.tensor([-1, 0])]),
        weights=torch.cat([torch.ones(13), torch.zeros(1)]),
    )  # fmt: skip
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.9))
    first, second = (qs.transferability({"net": net}, each, log_me) for each in (rows, more))
    assert first.table[0].score == pytest.approx(second.table[0].score)
    assert (second.rows, second.classes, second.table[0].features) == (12, 2, 3)
    assert net.training  # evaluated without dropout, and left as it was
    with torch.no_grad():
        assert first.table[0].score == pytest.approx(log_me(net[0](x), y), rel=1e-5)


def test_a_ranking_prints_the_best_first_and_compares_with_results() -> None:
    y = torch.arange(12) % 2
    rows = qs.examples(torch.zeros(12, 1), y)
    given = {"flat": torch.zeros(12, 2), "label": torch.stack([y, 1 - y], 1).float()}
    found = qs.transferability(given, rows, qs.transfer_scores.log_me)
    lines = str(found).splitlines()
    assert lines[0] == "log_me of 12 rows in 2 classes"
    assert lines[1].split()[0] == "label"
    assert found.agreement({"flat": 0.5, "label": 0.9}) == 1.0
    assert found.agreement({"flat": 0.9, "label": 0.5}) == -1.0
    assert [row["name"] for row in found.to_json()["table"]] == ["label", "flat"]
    with pytest.raises(ValueError, match="one result for each"):
        found.agreement({"flat": 1.0})


@pytest.mark.parametrize(
    ("candidates", "change", "message"),
    [
        ({}, {}, "at least 1 candidate; found none"),
        ({"a": torch.zeros(3, 2)}, {}, r"features \(n, d\) of the 4 rows; found \(3, 2\)"),
        ({"a": [1, 2]}, {}, "needs a backbone, or features .* found list"),
        ({"a": torch.full((4, 2), torch.nan)}, {}, "must be finite; found NaN"),
        ({"a": torch.zeros(4, 2)}, {"weights": [1, 1, 1, 2]}, "found a weight of 2"),
        ({"a": torch.zeros(4, 2)}, {"targets": [-1] * 4}, "labelled target rows; found none"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused(
    candidates: dict[str, object], change: dict[str, list[float]], message: str
) -> None:
    arguments = {"targets": [0, 0, 1, 1], "weights": None} | change
    rows = qs.examples(torch.zeros(4, 1), **arguments)
    with pytest.raises(ValueError, match=message):
        qs.transferability(candidates, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [*EVERY, log_me_2021])
def test_features_that_are_not_finite_are_refused(score: object) -> None:
    """Nearest neighbours called features of NaN perfect, and others showed errors of LAPACK."""
    with pytest.raises(ValueError, match="must be finite; found NaN or infinity"):
        score(torch.full((6, 2), torch.nan), torch.tensor([0, 1] * 3))  # type: ignore[operator]


def test_neighbours_that_are_equally_near_count_by_the_share_of_the_right_class() -> None:
    """So the order of rows does not matter where features are equal: 3 rows of a class, and 2."""
    y = torch.tensor([0, 0, 0, 1, 1])
    expected = (3 * 2 / 4 + 2 * 1 / 4) / 5
    for ids in (y, y.flip(0)):
        for cosine in (True, False):
            found = nearest_neighbours(torch.full((5, 3), 0.1), ids, cosine=cosine)
            assert found == pytest.approx(expected)
