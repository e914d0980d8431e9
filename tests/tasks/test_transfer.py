"""Transfer tasks: source rows, target rows, and queries that are in neither."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.tasks import TARGET, transfer

SPEC = qs.classification(2)


def place(n: int, first: int) -> qs.Examples:
    """Rows whose input is their number from ``first``, of class 0 and 1 in turn."""
    numbers = torch.arange(first, first + n)
    return qs.examples(numbers[:, None].float(), numbers % 2)


def test_each_target_row_has_one_part():
    source = transfer(
        [place(6, 100), place(4, 200)], place(20, 0), SPEC, labelled=2, unlabelled=5, queries=7
    )
    task = source(torch.Generator().manual_seed(3))
    groups, known = task.support.groups, task.support.targets >= 0
    assert (groups == 1).sum() == 6
    assert (groups == 2).sum() == 4
    own = groups == TARGET
    assert own.sum() == 2 * 2 + 5
    assert torch.bincount(task.support.targets[own & known]).tolist() == [2, 2]
    assert len(task.query.weights) == 7
    numbers = torch.cat([task.support.inputs[own], task.query.inputs]).flatten()
    assert len(numbers.unique()) == len(numbers)
    assert numbers.max() < 20
    torch.testing.assert_close(task.query.targets, task.query.inputs.flatten().long() % 2)


def test_real_targets_are_hidden_by_nan():
    rows = qs.examples(torch.rand(9, 2), torch.rand(9, 3))
    source = transfer(rows, rows, qs.regression(3, missing=True), unlabelled=4)
    task = source(torch.Generator())
    assert task.support.targets.isnan().all(1).sum() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled": 11}, "a class of the target has 10"),
        ({"unlabelled": 20}, "the target has 20 rows"),
        ({"queries": 0}, "queries at least 1"),
        ({"labelled": -1}, "at least 0"),
    ],
)
def test_too_few_rows_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transfer(place(6, 0), place(20, 0), SPEC, **options)


def test_other_columns_and_no_sources_are_refused():
    wide = qs.examples(torch.rand(4, 2), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="same columns"):
        transfer(wide, place(20, 0), SPEC)
    with pytest.raises(ValueError, match="must be Examples; found Tensor"):
        transfer(torch.ones(3, 2), place(20, 0), SPEC)  # type: ignore[arg-type]
    x = torch.randn(9, 2)
    real = qs.examples(x, x[:, :1])
    with pytest.raises(ValueError, match=r"unlabelled rows need .*qs.regression\(1, missing=True"):
        transfer(real, real, qs.regression(), unlabelled=3)
    assert transfer(real, real, qs.regression(1, missing=True), unlabelled=3).unlabelled == 3
    with pytest.raises(ValueError, match="at least 1 source"):
        transfer([], place(20, 0), SPEC)
