"""Memory Networks equal loops over rows and hops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.contract.check import doubled
from quickstudy.core import Examples, Task
from quickstudy.tasks.examples import pad_rows

WAYS = 3


@pytest.fixture
def task() -> Task:
    torch.manual_seed(1)
    support = qs.examples(torch.randn(5, 2), [2, 0, 1, 0, 2], [1.0, 2.0, 0.5, 1.0, 3.0])
    return doubled(
        Task(support, qs.examples(torch.randn(4, 2), [0, 1, 2, 0]), qs.classification(3))
    )


def made(hops: int, key_value: bool) -> qs.MemoryNetwork:
    torch.manual_seed(0)
    learner = qs.MemoryNetwork(MLP(2, (8,)), hops, width=6, key_value=key_value).double().eval()
    with torch.no_grad():  # no part at its starting value of zero, one or the identity
        for parameter in learner.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return learner


def standard(row: Tensor) -> Tensor:
    return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()


def answer_by_loops(learner: qs.MemoryNetwork, support: Examples, query: Tensor) -> list[list]:
    """The shares of rows and of classes, for one query."""
    weights, ids = support.weights.tolist(), support.targets.tolist()
    raw = learner.backbone(support.inputs)
    centre = sum(w * r for w, r in zip(weights, raw, strict=True)) / sum(weights)
    rows = [standard(r - centre) for r in raw]
    means = []
    for way in range(WAYS):
        of_way = [(w, r) for w, r, y in zip(weights, rows, ids, strict=True) if y == way]
        means.append(sum(w * r for w, r in of_way) / sum(w for w, _ in of_way))
    keys, values = [], []
    for row, y in zip(rows, ids, strict=True):
        key = learner.embedding.weight @ row
        keys.append(key if learner.key_value else key + learner.label_key.weight @ means[y])
        if learner.hops > 1:
            value = learner.label_value.weight @ means[y]
            values.append(value if learner.key_value else value + learner.row_value.weight @ row)
    hop_query = learner.embedding.weight @ standard(learner.backbone(query[None])[0] - centre)
    for hop in range(learner.hops):
        powers = []
        for key, weight in zip(keys, weights, strict=True):
            cosine = float(hop_query @ key / (hop_query.norm() * key.norm()))
            powers.append(weight * math.exp(float(learner.strength[hop]) * cosine))
        shares = [power / sum(powers) for power in powers]
        if hop < learner.hops - 1:
            read = sum(p * v for p, v in zip(shares, values, strict=True))
            hop_query = learner.query_update.weight @ hop_query + read
    of_class = [sum(p for p, y in zip(shares, ids, strict=True) if y == way) for way in range(WAYS)]
    return [shares, of_class]


@pytest.mark.parametrize("key_value", [False, True])
@pytest.mark.parametrize("hops", [1, 2, 3])
@torch.no_grad()
def test_predictions_and_attention_equal_those_of_loops(
    hops: int, key_value: bool, task: Task
) -> None:
    learner = made(hops, key_value)
    predictor = learner(task.support, task.spec)
    answers = predictor(task.query.inputs).softmax(-1)
    shares = learner.attention(predictor.state, task.query.inputs)
    for i, query in enumerate(task.query.inputs):
        rows, of_class = answer_by_loops(learner, task.support, query)
        torch.testing.assert_close(shares[i], torch.tensor(rows, dtype=torch.float64))
        torch.testing.assert_close(answers[i], torch.tensor(of_class, dtype=torch.float64))


@torch.no_grad()
def test_attention_to_padding_is_exactly_zero(task: Task) -> None:
    learner = made(3, key_value=False)
    state = learner(pad_rows(task.support, 7), task.spec).state
    shares = learner.attention(state, task.query.inputs)
    assert (shares[:, 5:] == 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(4, dtype=torch.float64))


def test_initial_attention_compares_features_without_labels() -> None:
    learner = qs.MemoryNetwork(MLP(2, (8,)), width=8)
    torch.testing.assert_close(learner.embedding.weight @ learner.embedding.weight.T, torch.eye(8))
    assert torch.equal(learner.query_update.weight, torch.eye(8))
    assert torch.equal(learner.label_key.weight, torch.zeros(8, 8))


@torch.no_grad()
def test_later_hops_change_what_is_read(task: Task) -> None:
    learner = made(3, key_value=False)
    first = learner(task.support, task.spec)(task.query.inputs)
    learner.label_value.weight.zero_()
    learner.row_value.weight.zero_()
    assert (learner(task.support, task.spec)(task.query.inputs) - first).abs().max() > 1e-3


def test_hops_must_be_positive_and_targets_ids() -> None:
    with pytest.raises(ValueError, match="hops must be at least 1; found 0"):
        qs.MemoryNetwork(MLP(), hops=0)
    real = qs.examples(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="MemoryNetwork: gives answers of the kind Classes"):
        qs.MemoryNetwork(MLP())(real, qs.regression())
