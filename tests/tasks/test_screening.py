"""Screening tasks: which rows they draw, and the columns they refuse."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.tasks import Screening, draw, usable


def table() -> torch.Tensor:
    """60 rows: column 0 has 10 active of 40 known, column 1 30 active of 60."""
    labels = torch.full((60, 2), torch.nan)
    labels[:40, 0] = (torch.arange(40) < 10).float()
    labels[:, 1] = (torch.arange(60) % 2).float()
    return labels


def source(**options) -> Screening:
    rows = torch.arange(60.0).unsqueeze(1)
    return Screening(rows, table(), ["rare", "even"], **{"shots": 8} | options)


def test_support_has_the_share_of_the_column_and_queries_are_all_others():
    for column, active in ((0, 2), (1, 4)):
        task = source().task(column, torch.Generator().manual_seed(0))
        assert int(task.support.targets.sum()) == active
        known = (~table()[:, column].isnan()).nonzero()[:, 0].tolist()
        rows = torch.cat([task.support.inputs, task.query.inputs])[:, 0].long().tolist()
        assert sorted(rows) == known
        for part in task[:2]:
            assert torch.equal(table()[part.inputs[:, 0].long(), column].long(), part.targets)
        assert task.spec == qs.ranking()


def test_a_share_and_a_number_of_queries_may_be_asked_for():
    task = source(share=0.5, queries=9).task(0, torch.Generator().manual_seed(0))
    assert task.support.targets.sum() == 4
    assert (len(task.query.targets), int(task.query.targets.sum())) == (9, 2)  # 6 of 32 left


def test_the_same_seed_gives_the_same_task_and_every_column_comes():
    drawn = [draw(source(), 0, number) for number in range(20)]
    assert torch.equal(drawn[3].support.inputs, draw(source(), 0, 3).support.inputs)
    assert {len(task.query.targets) for task in drawn} == {32, 52}
    tasks = source().of_all(draws=3, seed=1).tasks
    assert [len(task.query.targets) for task in tasks] == [32] * 3 + [52] * 3
    assert not torch.equal(tasks[0].support.inputs, tasks[1].support.inputs)


def test_columns_without_rows_enough_are_refused():
    assert usable(table(), 8, queries=8) == [True, True]
    assert usable(table(), 8, queries=9) == [False, True]  # 8 active ones are left of 10
    assert usable(torch.ones(60, 1), 8) == [False]
    with pytest.raises(ValueError, match="1 column of 2 has too few: rare"):
        source(shots=40)
    with pytest.raises(ValueError, match="needs 2 shots and 2 queries or more"):
        source(shots=1)
    with pytest.raises(ValueError, match="share must be between 0 and 1; found 1"):
        source(share=1.0)
    with pytest.raises(ValueError, match="1 name for 2 columns"):
        Screening(torch.zeros(60, 1), table(), ["rare"])
    with pytest.raises(ValueError, match="must have the same rows"):
        Screening(torch.zeros(59, 1), table(), ["rare", "even"])
