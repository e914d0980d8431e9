"""Multi-task features: what trains them, and what a new task sees of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import quickstudy as qs
from quickstudy.core import Task
from quickstudy.objectives import query_loss


def table_task(rows: int = 6) -> Task:
    generator = torch.Generator().manual_seed(0)
    table = (torch.rand(2 * rows, 3, generator=generator) < 0.5).float()
    table[torch.rand(2 * rows, 3, generator=generator) < 0.3] = torch.nan
    table[0] = torch.nan
    inputs = torch.randn(2 * rows, 4, generator=generator)
    spec = qs.multilabel(3, name="all labels")
    parts = (slice(rows), slice(rows, None))
    return Task(*(qs.examples(inputs[part], table[part]) for part in parts), spec)


def test_the_objective_is_the_mean_loss_of_all_known_labels():
    learner = qs.MultitaskFeatures(qs.backbones.MLP(4, (5,)), labels=3)
    task = table_task()
    x, y = (torch.cat([getattr(part, leaf) for part in task[:2]]) for leaf in ("inputs", "targets"))
    known = ~y.isnan()
    logits = learner.head(learner.learner.backbone(x))
    expected = F.binary_cross_entropy_with_logits(logits[known], y[known])
    assert torch.allclose(learner.objective(learner, task).loss, expected)


def test_a_new_task_is_the_inner_learners_alone():
    torch.manual_seed(0)
    inner = qs.PrototypicalMahalanobis(qs.backbones.MLP(4, (5,)))
    learner = qs.MultitaskFeatures(inner, labels=3)
    support = qs.examples(torch.randn(6, 4), [0, 1] * 3)
    spec, queries = qs.ranking(), torch.randn(3, 4)
    assert torch.equal(learner(support, spec)(queries), inner(support, spec)(queries))
    task = Task(support, support, spec)
    assert torch.equal(learner.objective(learner, task).loss, query_loss(inner, task).loss)
    with pytest.raises(ValueError, match="gives answers of the kind Classes"):
        learner(table_task().support, qs.multilabel(3))  # labels of another table


def test_training_on_labels_trains_features_and_head(tmp_path):
    torch.manual_seed(0)
    learner = qs.MultitaskFeatures(qs.backbones.MLP(4, (5,)), labels=3)
    source = qs.tasks.fixed([table_task()])
    before = learner.objective(learner, table_task()).loss.item()
    qs.fit(learner, source, 60, 1, optimiser=qs.optimisers.adam(0.05), progress=False)
    assert learner.objective(learner, table_task()).loss.item() < 0.8 * before
    predictor = learner(qs.examples(torch.randn(4, 4), [0, 1, 0, 1]), qs.ranking())
    qs.save(predictor, tmp_path / "predictor.safetensors")
    queries = torch.randn(3, 4)
    again = qs.load(tmp_path / "predictor.safetensors")
    assert torch.equal(again(queries), predictor(queries))


def test_other_labels_and_learners_without_a_backbone_are_refused():
    learner = qs.MultitaskFeatures(qs.backbones.MLP(4, (5,)), labels=2)
    task = table_task()
    with pytest.raises(ValueError, match="has 2 labels here; found Labels"):
        learner(task.support, task.spec)
    with pytest.raises(ValueError, match="needs a learner with a backbone"):
        qs.MultitaskFeatures(qs.SelfTraining(torch.nn.Identity()), labels=2)
