"""Confusion counts and the interval of a share, against scikit-learn and by the formula."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix

from quickstudy.evaluation.confusion import Confusion
from quickstudy.evaluation.intervals import share_interval
from quickstudy.reports.tables import confusion_table


@pytest.mark.parametrize(("count", "total"), [(0, 5), (5, 5), (3, 10), (97, 100)])
def test_the_interval_of_a_share_is_wilsons(count, total):
    z, p = 1.959963984540054, count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert share_interval(count, total) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_counts_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    true, predicted = random.integers(0, 4, (2, 50))
    found = Confusion.of("abcde", torch.from_numpy(true), torch.from_numpy(predicted))
    expected = confusion_matrix(true, predicted, labels=range(5))
    assert found.counts.tolist() == expected.tolist()
    assert found.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert found.chance == pytest.approx(np.bincount(true).max() / 50)
    values = json.loads(json.dumps(found.to_json()))
    assert values["confusion"] == {"names": list("abcde"), "counts": expected.tolist()}
    off_diagonal = sum(rows for _, _, rows in found.mistakes)
    assert off_diagonal == 50 - np.trace(expected)
    sizes = [rows for _, _, rows in found.mistakes]
    assert sizes == sorted(sizes, reverse=True)
    assert all(expected[t, p] == rows for t, p, rows in found.mistakes)


def test_the_text_says_when_chance_is_in_the_interval():
    true = torch.tensor([0, 1] * 10)
    assert "contains chance" in str(Confusion.of("ab", true, torch.tensor([0, 0, 1, 1] * 5)))
    right = str(Confusion.of("ab", true, true))
    assert right == "100.0% (95% interval 83.9% to 100.0%, 20 rows; chance 50.0%)"


def test_many_classes_are_shown_by_their_mistakes():
    names = [f"[b]kind {i}" for i in range(20)]
    true = torch.arange(20).repeat(3)
    predicted = true.clone()
    predicted[[0, 20]] = 7
    table = confusion_table(Confusion.of(names, true, predicted))
    assert [next(iter(column.cells)) for column in table.columns[2:]] == ["2"]
    assert [str(next(iter(c.cells))) for c in table.columns[:2]] == [names[0], names[7]]
    few = confusion_table(Confusion.of(names[:2], torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])))
    assert [[str(cell) for cell in column.cells] for column in few.columns] == [
        ["1 [b]kind 0", "2 [b]kind 1"], ["1", "1"], ["·", "1"],
    ]  # fmt: skip
