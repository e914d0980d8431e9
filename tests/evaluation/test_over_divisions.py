"""Scores of several divisions of the classes, against scipy's t tests of the divisions' means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from quickstudy.evaluation.over_divisions import (
    figures_over_divisions,
    joined,
    pairs_over_divisions,
)
from quickstudy.evaluation.result import Result


def result(values: np.ndarray, higher: bool = True) -> Result:
    found = torch.from_numpy(values)
    statistics = tuple({"mean": value} for value in found)
    return Result(
        "", "score", "%", higher, False, True, statistics, found, float(found.mean()), 0.01
    )  # fmt: skip


CHANCE = np.random.default_rng(0)
ONE = [CHANCE.normal(mean, 0.05, 60) for mean in (0.6, 0.7, 0.65, 0.62)]
OTHER = [each + CHANCE.normal(0.04, 0.02, 60) for each in ONE]


def test_figures_are_of_all_tasks_and_of_the_means_of_the_divisions():
    found = figures_over_divisions([result(each) for each in ONE])
    means = [each.mean() for each in ONE]
    assert found.mean == pytest.approx(np.mean(means))
    low, high = stats.t.interval(0.95, 3, np.mean(means), stats.sem(means))
    assert (found.others.low, found.others.high) == pytest.approx((low, high))
    assert found.these.high - found.these.low < found.others.high - found.others.low
    assert found.others_over == "4 divisions of the classes, each with its own training"


@pytest.mark.parametrize("higher", [True, False])
def test_pairs_are_of_learners_on_the_same_division(higher):
    results = {"one": ONE, "other": OTHER}
    (pair,) = pairs_over_divisions(
        {n: [result(each, higher) for each in of] for n, of in results.items()}, 0.005
    )
    sign = 1 if higher else -1
    differences = [sign * (a.mean() - b.mean()) for a, b in zip(ONE, OTHER, strict=True)]
    assert pair.difference == pytest.approx(np.mean(differences))
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    assert (pair.others.low, pair.others.high) == pytest.approx((low, high))
    assert pair.p_others == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert pair.verdict == ("worse" if higher else "better")


def test_with_2_divisions_nothing_is_known_of_others():
    found = figures_over_divisions([result(each) for each in ONE[:2]])
    assert found.others is None
    assert found.others_over == "2 divisions of the classes are too few, 3 are needed"


def test_tasks_are_joined_in_their_order():
    found = joined([result(each) for each in ONE])
    assert found.values.tolist() == np.concatenate(ONE).tolist()
    assert found.tasks == 240
    assert found.half_width == pytest.approx(
        stats.t.ppf(0.975, 239) * np.concatenate(ONE).std(ddof=1) / math.sqrt(240)
    )
