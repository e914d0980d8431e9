"""Baselines of the answers, by hand and by scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestCentroid

import quickstudy as qs
from made_up import examples_of
from quickstudy.answers.baselines import as_vectors, nearest_mean


def test_the_nearest_mean_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(40, 1, 5, 5, generator=generator)
    targets = torch.arange(40) % 4
    support, queries = examples_of(inputs[:20], targets[:20]), inputs[20:]
    found = nearest_mean(support, queries, 4)
    assert found is not None
    reference = NearestCentroid().fit(inputs[:20].flatten(1), targets[:20])
    assert found.argmax(1).tolist() == reference.predict(queries.flatten(1)).tolist()


def test_the_nearest_mean_counts_rows_by_weight_and_leaves_out_unknown_ones() -> None:
    inputs = torch.tensor([[0.0], [4.0], [10.0], [100.0]])
    targets = torch.tensor([0, 0, 1, -1])
    queries = torch.tensor([[5.5], [6.5]])
    plain = nearest_mean(examples_of(inputs, targets), queries, 3)
    heavy = nearest_mean(
        examples_of(inputs, targets, torch.tensor([0.0, 1.0, 1.0, 1.0])), queries, 3
    )
    assert plain is not None
    assert heavy is not None
    assert plain.argmax(1).tolist() == [0, 1], "means 2 and 10"
    assert heavy.argmax(1).tolist() == [0, 0], "means 4 and 10"
    assert plain.softmax(1)[:, 2].tolist() == [0, 0], "a class without rows"


def test_the_nearest_mean_is_exact_far_from_the_origin() -> None:
    inputs = torch.tensor([[4096.0], [4096.5]])
    found = nearest_mean(examples_of(inputs, torch.tensor([0, 1])), inputs, 2)
    assert found is not None
    assert found.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("inputs", "width"),
    [
        (torch.rand(3, 2, 2), 4),
        ({"a": torch.rand(3), "b": torch.rand(3, 2).half()}, 3),
        (torch.ones(3, 2, dtype=torch.long), None),
        ({"x": torch.rand(3, 2), "mask": torch.ones(3, 2, dtype=torch.bool)}, None),
        ((), None),
    ],
)
def test_only_reals_have_means(inputs: object, width: int | None) -> None:
    found = as_vectors(inputs)
    assert (None if found is None else found.shape[1]) == width


def test_chance_answers_one_class_for_all_rows() -> None:
    answer = qs.answers.Classes(3)
    rows = examples_of(torch.rand(6, 2), torch.tensor([2, 2, 1, 0, 2, -1]))
    guessed = answer.guesses(rows, rows)
    assert all(each.shape == answer.prediction_shape(rows.targets) for each in guessed)
    assert [int(each[0].argmax()) for each in guessed] == [2, 0, 1, 2]
    score = answer.score
    found = [float(score.value(score.statistic(each, rows))) for each in guessed]
    assert found == pytest.approx([3 / 5, 1 / 5, 1 / 5, 3 / 5])
