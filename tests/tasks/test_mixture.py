"""A mixture draws each source as often as asked, and its tasks are those of the sources."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Task, TaskSource


def constant(value: float, ways: int = 2) -> TaskSource:
    """Tasks in which every input is ``value``, plus noise for queries."""

    def source(generator: torch.Generator) -> Task:
        ids = torch.arange(ways)
        support = qs.examples(torch.full((ways, 3), value), ids)
        noise = torch.rand(ways, 3, generator=generator)
        return qs.Task(support, qs.examples(value + noise, ids), qs.classification(ways))

    return source


def value_of(task: Task) -> float:
    return float(task.support.inputs[0, 0])


def test_sources_are_drawn_by_their_weights() -> None:
    """Within 5 standard errors of a binomial share: fails once in a million seeds."""
    mixed = qs.tasks.mixture([constant(0.0), constant(1.0), constant(2.0)], [1, 2, 5])
    tasks = 4000
    found = Counter(value_of(qs.tasks.draw(mixed, 0, i)) for i in range(tasks))
    for value, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        error = math.sqrt(share * (1 - share) / tasks)
        assert abs(found[float(value)] / tasks - share) < 5 * error


def test_a_task_is_the_sources_own_and_can_be_drawn_again() -> None:
    mixed = qs.tasks.mixture([constant(0.0), constant(1.0)])
    first, again = (qs.tasks.draw(mixed, 3, 7) for _ in range(2))
    assert torch.equal(first.query.inputs, again.query.inputs)
    generator = torch.Generator().manual_seed(5)
    task = mixed(generator)
    other = torch.Generator().manual_seed(5)
    torch.rand((), generator=other, dtype=torch.float64)
    assert torch.equal(task.query.inputs, constant(value_of(task))(other).query.inputs)


def test_names_give_rows_of_a_result_and_one_training_takes_all() -> None:
    mixed = qs.tasks.mixture(
        {"two": constant(0.0, 2), "three": constant(1.0, 3)}, {"three": 3.0, "two": 1.0}
    )
    assert mixed.shares == (0.25, 0.75)
    learner = qs.Prototypical(MLP(3, (4,)))
    qs.fit(learner, mixed, steps=3, tasks_per_step=8)
    result = qs.evaluate(learner, mixed, tasks=40)
    assert {row.name for row in result.rows} == {"two", "three"}
    assert sum(row.tasks for row in result.rows) == 40


def test_wrong_sources_and_weights_are_refused() -> None:
    one = constant(0.0)
    with pytest.raises(ValueError, match="needs at least 1 source; found none"):
        qs.tasks.mixture([])
    with pytest.raises(ValueError, match="found int in place 1"):
        qs.tasks.mixture([one, 5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one weight for each of 2 sources; found 1"):
        qs.tasks.mixture([one, one], [1.0])
    with pytest.raises(ValueError, match=r"weights must be positive.*found \[1, 0\]"):
        qs.tasks.mixture([one, one], [1, 0])
    with pytest.raises(ValueError, match="one weight for each of 2 sources; found 0"):
        qs.tasks.mixture([one, one], [])
    with pytest.raises(ValueError, match=r"positive, finite numbers; found \['a', 1\]"):
        qs.tasks.mixture([one, one], ["a", 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="found weights of a and sources b"):
        qs.tasks.mixture({"b": one}, {"a": 1.0})


@pytest.mark.parametrize("weights", [[1e308] * 4, np.ones(4), torch.ones(4)])
def test_shares_do_not_depend_on_the_size_or_kind_of_weights(weights: Any) -> None:
    assert qs.tasks.mixture([qs.Sinusoids()] * 4, weights).shares == (0.25,) * 4
