"""Metrics against scikit-learn, or against their definition in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from quickstudy.answers import metrics


def pairs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores with ties, targets some of which are unknown, weights some of which are 0."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=n).round(1)
    targets = draw.integers(0, 2, size=n).astype(float)
    targets[draw.random(n) < 0.2] = np.nan
    weights = draw.integers(0, 3, size=n).astype(float)
    return tuple(map(torch.from_numpy, (scores, targets, weights)))  # type: ignore[return-value]


@pytest.mark.parametrize("n", [20, 200, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_ranking_metrics_equal_scikit_learn(n, seed):
    scores, targets, weights = pairs(n, seed)
    known = ~targets.isnan()
    arguments = (targets[known], scores[known])
    counts = {"sample_weight": weights[known]}
    found = metrics.roc_auc(scores, targets, weights)
    assert float(found) == pytest.approx(roc_auc_score(*arguments, **counts), abs=1e-12)
    found = metrics.average_precision(scores, targets, weights)
    assert float(found) == pytest.approx(average_precision_score(*arguments, **counts), abs=1e-12)


def test_a_ranking_without_positives_or_without_negatives_is_nan():
    ones = torch.ones(4, dtype=torch.float64)
    assert metrics.roc_auc(torch.arange(4.0).double(), ones, ones).isnan()
    assert metrics.average_precision(torch.arange(4.0).double(), 0 * ones, ones).isnan()


def test_intersection_over_union_equals_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 4, (6, 5, 5), generator=draw)
    true = torch.randint(-1, 4, (6, 5, 5), generator=draw)
    both, either = metrics.intersection_and_union(chosen, true, torch.ones(6), 4)
    known = true >= 0
    expected = jaccard_score(true[known], chosen[known], average=None, labels=range(4))
    assert torch.allclose((both / either).double(), torch.from_numpy(expected))


def test_iou_of_boxes_equals_hand_computed_values():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0]])
    assert torch.allclose(metrics.box_iou(a, b), torch.tensor([[1 / 7, 0.0], [0.0, 0.0]]))
    # First of a with second of b: the hull has area 25, the union 5.
    generalised = metrics.generalised_box_iou(a, b)
    assert generalised[0, 1] == pytest.approx(-20 / 25)
    assert generalised[0, 0] == pytest.approx(1 / 7 - (9 - 7) / 9)


def test_f1_of_bags_of_tokens():
    assert metrics.token_f1([1, 2, 2, 3], [2, 2, 4]) == pytest.approx(2 * 2 / 7)
    assert metrics.token_f1([], []) == 1
    assert metrics.token_f1([], [1]) == 0


def test_chrf_equals_its_definition():
    predicted, true = list(b"the cat sat"), list(b"the cat sits")
    precisions, recalls = [], []
    for n in range(1, 7):
        of_predicted = [tuple(predicted[i : i + n]) for i in range(len(predicted) - n + 1)]
        unmatched = [tuple(true[i : i + n]) for i in range(len(true) - n + 1)]
        total, shared = len(unmatched), 0
        for gram in of_predicted:
            if gram in unmatched:
                unmatched.remove(gram)
                shared += 1
        precisions.append(shared / len(of_predicted))
        recalls.append(shared / total)
    p, r = np.mean(precisions), np.mean(recalls)
    counts = torch.tensor(metrics.ngram_counts(predicted, true, 6))
    assert float(metrics.chrf(counts)) == pytest.approx(5 * p * r / (4 * p + r))
    assert float(metrics.chrf(torch.tensor(metrics.ngram_counts(true, true, 6)))) == 1
