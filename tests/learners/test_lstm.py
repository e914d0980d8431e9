"""LSTM equals torch's own recurrent network, and each label enters one row later."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.contract.check import doubled
from quickstudy.core import Examples, Task
from quickstudy.learners.memory.sequence_learner import sequence_loss
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import pad_rows
from quickstudy.tasks.numbering import draw
from quickstudy.training.optimisers import adam

SUPPORT, QUERIES, WAYS, HIDDEN = 5, 3, 3, 7


@pytest.fixture
def learner() -> qs.LSTM:
    torch.manual_seed(0)
    return qs.LSTM(MLP(2, (8,)), WAYS, HIDDEN).double().eval()


@pytest.fixture
def task() -> Task:
    torch.manual_seed(1)
    inputs = torch.randn(SUPPORT + QUERIES, 2)
    ids = torch.tensor([2, 0, 1, 0, 2, 1, 0, 2])
    support = qs.examples(inputs[:SUPPORT], ids[:SUPPORT])
    query = qs.examples(inputs[SUPPORT:], ids[SUPPORT:])
    return doubled(Task(support, query, qs.classification(WAYS)))


def by_torch(learner: qs.LSTM, rows: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
    """The prediction of every row by ``torch.nn.LSTM``, whose gates are in another order."""
    x = rows - centre
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    before = torch.zeros(len(rows), WAYS, dtype=torch.float64)
    before[torch.arange(1, len(rows)), labels[:-1]] = 1
    other = nn.LSTM(x.shape[1] + WAYS, HIDDEN, dtype=torch.float64)
    i, f, o, candidate = learner.controller.gates.weight.chunk(4)
    bias = dict(zip("ifog", learner.controller.gates.bias.chunk(4), strict=True))
    weight = torch.cat([i, f, candidate, o])
    with torch.no_grad():
        other.weight_ih_l0.copy_(weight[:, : x.shape[1] + WAYS])
        other.weight_hh_l0.copy_(weight[:, x.shape[1] + WAYS :])
        other.bias_ih_l0.copy_(torch.cat([bias[gate] for gate in "ifgo"]))
        other.bias_hh_l0.zero_()
    hidden: Tensor = other(torch.cat([x, before], 1))[0]
    return hidden @ learner.output_layer.weight.T + learner.output_layer.bias


@torch.no_grad()
def test_predictions_equal_those_of_torch(learner: qs.LSTM, task: Task) -> None:
    rows = learner.backbone(task.support.inputs)
    predictions = learner(task.support, task.spec)(task.query.inputs)
    labels = torch.cat([task.support.targets, torch.zeros(1, dtype=torch.long)])
    for query, prediction in zip(learner.backbone(task.query.inputs), predictions, strict=True):
        expected = by_torch(learner, torch.stack([*rows, query]), labels, rows.mean(0))[-1]
        torch.testing.assert_close(prediction, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_objective_is_the_mean_loss_along_the_sequence(learner: qs.LSTM, task: Task) -> None:
    rows = learner.backbone(torch.cat([task.support.inputs, task.query.inputs]))
    labels = torch.cat([task.support.targets, task.query.targets])
    predictions = by_torch(learner, rows, labels, rows[:SUPPORT].mean(0))
    expected = nn.functional.cross_entropy(predictions, labels)
    torch.testing.assert_close(sequence_loss(learner, task).loss, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_training_score_equals_that_of_validation(learner: qs.LSTM, task: Task) -> None:
    found = sequence_loss(learner, task).score
    torch.testing.assert_close(found, query_loss(learner, task).score)


@torch.no_grad()
def test_a_label_is_unknown_at_its_row_and_known_at_the_next(learner: qs.LSTM, task: Task) -> None:
    features = learner.backbone(task.support.inputs)

    def predictions(targets: Tensor) -> Tensor:
        labels = task.spec.answer.encode(targets, torch.float64)
        return learner.read_rows(learner.start(), features, labels)[1]

    for row in range(SUPPORT):
        targets = task.support.targets.clone()
        before = predictions(targets)
        targets[row] = (targets[row] + 1) % WAYS
        after = predictions(targets)
        assert torch.equal(before[: row + 1], after[: row + 1])
        if row + 1 < SUPPORT:
            assert (before[row + 1] - after[row + 1]).abs().max() > 1e-6


@torch.no_grad()
def test_rows_of_weight_zero_are_not_read(learner: qs.LSTM, task: Task) -> None:
    padded = learner(pad_rows(task.support, 9), task.spec)(task.query.inputs)
    torch.testing.assert_close(padded, learner(task.support, task.spec)(task.query.inputs))


def test_it_learns_to_bind_two_labels_to_rows() -> None:
    """Two classes of vectors that no other task has: without binding, accuracy stays at 1/2.

    Of five seeds, the worst had an accuracy of 0.94.
    """

    def source(generator: torch.Generator) -> Task:
        centres = torch.randn(2, 8, generator=generator)

        def drawn(n: int) -> Examples:
            ids = torch.arange(2).repeat(n)[torch.randperm(2 * n, generator=generator)]
            noise = torch.randn(2 * n, 8, generator=generator)
            return qs.examples(centres[ids] + 0.3 * noise, ids)

        return Task(drawn(1), drawn(2), qs.classification(2))

    class Vectors(nn.Module):
        features = 8

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    torch.manual_seed(0)
    learner = qs.LSTM(Vectors(), outputs=2, hidden=32)
    qs.fit(learner, source, 150, tasks_per_step=32, optimiser=adam(1e-2), seed=1, progress=False)
    assert qs.evaluate(learner, source, tasks=100, baselines=False).mean > 0.8


def test_more_outputs_than_the_learner_has_are_refused(learner: qs.LSTM, task: Task) -> None:
    with pytest.raises(ValueError, match=r"LSTM: the task has 4 outputs.*Build it with outputs=4"):
        learner(task.support, qs.classification(4))
    with pytest.raises(ValueError, match="Build it with outputs=4"):
        sequence_loss(learner, task._replace(spec=qs.classification(4)))


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="hidden"):
        qs.LSTM(MLP(), hidden=0)


def test_a_sinusoid_is_read_too() -> None:
    learner = qs.LSTM(MLP(hidden=(8,)), 1, HIDDEN)
    task = draw(qs.Sinusoids(shots=5, queries=4), 0, 0)
    assert learner(task.support, task.spec)(task.query.inputs).shape == (4, 1)
