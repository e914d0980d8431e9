"""Scores of a ranking against scikit-learn's, and what they say where they cannot."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import quickstudy as qs
from quickstudy.answers import Classes
from quickstudy.core import Examples


def rows(targets: torch.Tensor, weights: torch.Tensor | None = None) -> Examples:
    weights = torch.ones(len(targets)) if weights is None else weights
    return Examples(torch.zeros(len(targets), 1), targets, weights, torch.zeros(len(targets)))


def scored(logits: torch.Tensor, query: Examples) -> list[float]:
    return [float(s.value(s.statistic(logits, query))) for s in qs.ranking().answer.scores]


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_those_of_scikit_learn(ties):
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(700, generator=generator) < 0.1).long()
    odds = torch.randn(700, generator=generator).double() + targets
    odds = odds.round() if ties else odds
    both = torch.randn(700, generator=generator).round().double()
    found = scored(torch.stack([both, both + odds], 1), rows(targets))
    share = float(targets.double().mean())
    assert found[0] == pytest.approx(average_precision_score(targets, odds) - share, abs=1e-6)
    assert found[1] == pytest.approx(roc_auc_score(targets, odds), abs=1e-6)


def test_unknown_rows_and_rows_of_weight_0_are_absent():
    targets = torch.tensor([1, 0, 1, 0, -1, 1])
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double()
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert scored(logits, rows(targets, weights)) == scored(logits[:4], rows(targets[:4]))
    twice = torch.tensor([2.0, 1.0, 1.0, 1.0])
    repeated = torch.tensor([0, 0, 1, 2, 3])
    assert scored(logits[:4], rows(targets[:4], twice)) == pytest.approx(
        scored(logits[repeated], rows(targets[repeated]))
    )


@pytest.mark.parametrize("value", [0, 1])
def test_queries_of_one_class_have_no_score(value):
    found = scored(torch.randn(4, 2), rows(torch.full((4,), value)))
    assert torch.tensor(found).isnan().all()


def test_a_task_is_scored_alone_and_tasks_by_their_mean():
    score = qs.ranking().answer.score
    tasks = [score.statistic(torch.randn(8, 2), rows(torch.arange(8) % 2)) for _ in range(3)]
    mean = sum(score.value(each) for each in tasks) / 3
    assert torch.allclose(score.value(score.merge(tasks)), mean)


def test_only_two_classes_are_ranked():
    assert Classes(2, ranked=True).scores != Classes(2).scores
    with pytest.raises(ValueError, match="needs 2 ways and no clusters; found 3 ways"):
        Classes(3, ranked=True)
    assert Classes(2, ranked=True).join(Classes(2)) is None
