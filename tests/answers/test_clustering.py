"""Scores of clusterings equal scikit-learn's, and do not depend on the clusters' names."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.answers.clustering import (
    AdjustedRandIndex,
    HungarianAccuracy,
    NormalisedMutualInformation,
)
from quickstudy.core import Score, Task
from quickstudy.files.answers import build_answer, describe_answer
from quickstudy.tasks.transfer import without_labels

SCORES = (HungarianAccuracy(), NormalisedMutualInformation(), AdjustedRandIndex())


def value(score: Score, true: list[int], chosen: list[int], weights: object = None) -> float:
    ways = max([*true, *chosen]) + 1
    logits = torch.nn.functional.one_hot(torch.tensor(chosen), ways).double()
    rows = examples_of(torch.zeros(len(true), 1).double(), torch.tensor(true), weights)  # type: ignore[arg-type]
    return float(score.value(score.statistic(logits, rows)))


def test_they_equal_scikit_learn_and_the_best_of_all_renamings() -> None:
    generator = np.random.default_rng(0)
    for k in (2, 3, 4):
        true, chosen = generator.integers(0, k, (2, 30))
        chosen = np.where(generator.random(30) < 0.6, (true + 1) % k, chosen)
        found = [value(score, true.tolist(), chosen.tolist()) for score in SCORES]
        renamings = itertools.permutations(range(k))
        best = max(np.mean(np.array(r)[chosen] == true) for r in renamings)
        expected = [
            best, normalized_mutual_info_score(true, chosen), adjusted_rand_score(true, chosen),
        ]  # fmt: skip
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_a_perfect_clustering_scores_1_under_other_names(score: Score) -> None:
    assert value(score, [0, 0, 1, 1, 2], [2, 2, 0, 0, 1]) == pytest.approx(1.0)
    assert value(score, [0, 0, 0], [1, 1, 1]) == 1.0  # one cluster, found as one


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_unlabelled_rows_and_weights_count_as_rows_do(score: Score) -> None:
    true, chosen = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
    weights = torch.tensor([2.0, 1, 1, 1, 0], dtype=torch.float64)
    repeated = value(score, [0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert value(score, true, chosen, weights) == pytest.approx(repeated)
    assert value(score, [*true, -1], [*chosen, 0]) == pytest.approx(value(score, true, chosen))
    assert math.isnan(value(score, [-1, -1], [0, 1]))


def test_a_task_of_clusters_reports_the_three_scores() -> None:
    def unlabelled(generator: torch.Generator) -> Task:
        support, query, _ = clouds(3, 8, 8)(generator)
        return Task(without_labels(support), query, qs.clustering(3))

    learner = qs.KMeans(torch.nn.Identity())
    result = qs.evaluate(learner, unlabelled, tasks=5, baselines=False)
    assert [row.score for row in result.rows] == ["Hungarian accuracy", "NMI", "ARI"]
    assert result.mean > 0.6
    assert result.calibration_error is None


def test_clusters_are_saved_and_stack_only_with_clusters() -> None:
    answer = qs.clustering(3).answer
    assert build_answer(describe_answer(answer)) == answer
    assert answer.join(qs.clustering(4).answer) == qs.clustering(4).answer
    assert answer.join(qs.classification(3).answer) is None
