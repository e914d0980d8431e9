"""Rank ensembles against scipy's ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import quickstudy as qs
from quickstudy.core import Task
from quickstudy.learners.transfer.rank_ensemble import mean_of_ranks
from quickstudy.objectives import query_loss


def test_scores_are_the_mean_ranks_of_the_learners():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(9, 2, generator=generator).double() for _ in range(3)]
    logits[1] = logits[1].round()  # with ties
    found = mean_of_ranks(logits).softmax(1)[:, 1].numpy()
    ranks = [rankdata((each[:, 1] - each[:, 0]).numpy()) / 10 for each in logits]
    assert np.allclose(found, np.mean(ranks, 0))


def test_the_scale_of_a_learner_does_not_matter():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    support, queries = qs.examples(x, [0, 1] * 6), torch.randn(7, 3)
    spec = qs.ranking()

    def pair(scale: float) -> qs.Learner:
        return qs.RankEnsemble([
            qs.PrototypicalMahalanobis(torch.nn.Identity(), scale=scale),
            qs.Prototypical(torch.nn.Identity()),
        ])  # fmt: skip

    assert torch.equal(pair(1.0)(support, spec)(queries), pair(1e-3)(support, spec)(queries))
    assert pair(1.0).transductive


def test_training_trains_each_learner_as_it_would_be_alone():
    torch.manual_seed(0)
    first, second = (qs.Prototypical(qs.backbones.MLP(3, (4,))) for _ in range(2))
    ensemble = qs.RankEnsemble([first, second, qs.RandomForest(torch.nn.Identity(), trees=2)])
    rows = qs.examples(torch.randn(8, 3), [0, 1] * 4)
    task = Task(rows, rows, qs.ranking())
    alone = sum(query_loss(each, task).loss for each in (first, second))
    assert torch.allclose(ensemble.objective(ensemble, task), alone)


def test_labels_go_to_the_learners_that_give_them():
    torch.manual_seed(0)
    features = qs.MultitaskFeatures(qs.PrototypicalMahalanobis(qs.backbones.MLP(3, (4,))), labels=2)
    ensemble = qs.RankEnsemble([features, qs.RandomForest(torch.nn.Identity(), trees=2)])
    spec = qs.multilabel(2, name="all labels")
    rows = qs.examples(torch.randn(6, 3), torch.ones(6, 2))
    assert torch.equal(ensemble(rows, spec)(rows.inputs), features(rows, spec)(rows.inputs))
    qs.fit(ensemble, qs.tasks.fixed([Task(rows, rows, spec)]), 2, 1, progress=False)


def test_one_learner_is_refused():
    with pytest.raises(ValueError, match="needs 2 learners or more; found 1"):
        qs.RankEnsemble([qs.Prototypical(torch.nn.Identity())])


def test_tasks_of_other_sizes_do_not_change_a_score():
    """Each task alone is the oracle: beside larger ones, added rows would be ranked too."""

    def task(queries: int) -> Task:
        generator = torch.Generator().manual_seed(queries)
        x = torch.randn(8 + queries, 4, generator=generator)
        y = torch.arange(8 + queries) % 2
        return Task(qs.examples(x[:8], y[:8]), qs.examples(x[8:], y[8:]), qs.ranking())

    tasks = [task(n) for n in range(20, 26)]
    pair = qs.RankEnsemble([
        qs.Prototypical(torch.nn.Identity()), qs.LinearProbe(torch.nn.Identity()),
    ])  # fmt: skip
    score = tasks[0].spec.answer.scores[0]
    alone = [
        float(score.value(score.statistic(pair(t.support, t.spec)(t.query.inputs), t.query)))
        for t in tasks
    ]
    found = qs.evaluate(pair, qs.tasks.fixed(tasks), baselines=False)
    assert np.allclose(found.main.values, alone, atol=1e-6)
