"""Conformal quantiles against exact fractions and numpy, and their coverage by simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from quickstudy.evaluation.conformal import conformal_quantile, least_groups


def singles(values: Tensor) -> list[Tensor]:
    return list(values.reshape(-1, 1))


@pytest.mark.parametrize("n", [9, 10, 19, 20, 99, 100])
@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.8, 0.9])
def test_of_single_scores_it_is_the_order_statistic_of_split_conformal(
    n: int, coverage: float
) -> None:
    """The ceil((n + 1) c)-th smallest, with c as the exact decimal; and as numpy finds it."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    place = math.ceil((n + 1) * Fraction(str(coverage)))
    found = conformal_quantile(singles(values), coverage)
    assert found == float(values.sort().values[place - 1])
    if n == 99:  # the share (n + 1) c / n falls between two scores
        share = np.nextafter((n + 1) * coverage / n, 0)
        assert found == np.quantile(values.numpy(), share, method="inverted_cdf")


def by_fractions(scores: list[list[float]], weights: list[list[int]], coverage: Fraction) -> float:
    """The least score at which the weights, exactly, reach (K + 1) times the coverage."""
    for bound in sorted({score for group in scores for score in group}):
        reached = Fraction(0)
        for group, of_group in zip(scores, weights, strict=True):
            inside = sum(w for s, w in zip(group, of_group, strict=True) if s <= bound)
            reached += Fraction(inside, sum(of_group))
        if reached >= (len(scores) + 1) * coverage:
            return bound
    raise AssertionError("too few groups")


@pytest.mark.parametrize("seed", range(20))
def test_groups_count_alike_however_many_scores_they_have(seed: int) -> None:
    """Scores with ties; groups of 1 to 6 scores, weights of 0 to 3."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 7, size=12)
    scores = [[round(float(x), 1) for x in generator.normal(size=n)] for n in sizes]
    weights = [[1, *map(int, generator.integers(0, 4, size=n - 1))] for n in sizes]
    for coverage in ("0.3", "0.75", "0.9"):
        found = conformal_quantile(
            [torch.tensor(each, dtype=torch.float64) for each in scores], float(coverage),
            [torch.tensor(each, dtype=torch.float64) for each in weights],
        )  # fmt: skip
        assert found == by_fractions(scores, weights, Fraction(coverage))


def test_a_new_task_is_covered_as_promised_where_rows_of_a_task_are_alike() -> None:
    """20,000 simulations of 19 tasks of 10 rows, whose scores share a task's own offset.

    With 19 groups and 90%, groups must reach 18: coverage lies between 0.9 and 0.95. Counting all
    190 rows alike, as if they were independent, 191 x 0.9 of them would do: 172 rows, and too few
    (0.886 of new rows). The standard error is 0.002.
    """
    generator = np.random.default_rng(0)
    offsets = generator.normal(size=(20_000, 20, 1)) * 2
    scores = offsets + generator.normal(size=(20_000, 20, 10))
    known, new = np.sort(scores[:, :19].reshape(20_000, -1), axis=1), scores[:, 19, 0]
    covered = (new <= known[:, 18 * 10 - 1]).mean()
    assert 0.9 - 3 * 0.0022 < covered < 0.95
    assert (new <= known[:, 171]).mean() < 0.9 - 3 * 0.0022
    for row in range(20):  # the bound that was simulated is the function's
        groups = list(torch.from_numpy(scores[row, :19]))
        assert conformal_quantile(groups, 0.9) == known[row, 179]


@pytest.mark.parametrize(
    ("coverage", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_too_few_scores_are_refused_with_the_number_needed(coverage: float, least: int) -> None:
    values = torch.arange(float(least))
    assert least_groups(coverage) == least
    assert conformal_quantile(singles(values), coverage) == least - 1
    if least > 1:
        with pytest.raises(ValueError, match=f"at least {least} tasks .* found {least - 1}"):
            conformal_quantile(singles(values[1:]), coverage)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90, float("nan"), "0.9", None, True])
def test_a_coverage_outside_0_and_1_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="share between 0 and 1"):
        conformal_quantile(singles(torch.zeros(5)), coverage)


@pytest.mark.parametrize("rows", [3, 7, 10])
def test_shares_that_have_no_exact_sum_reach_the_bound(rows: int) -> None:
    """Nine groups at 90% need all of their weight: 90 times 0.1 is below 9 in floating point."""
    groups = [torch.arange(float(rows)) + k for k in range(9)]
    assert conformal_quantile(groups, 0.9) == rows - 1 + 8
