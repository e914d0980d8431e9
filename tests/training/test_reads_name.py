"""A learner with a part for each task name gets every task with its name: no stack mixes names."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.training.preflight import prepare

FACTORS = {"a": 2.0, "b": -1.0, "c": 0.5}


def source(generator: torch.Generator) -> Task:
    """y = factor * x, with a factor for each name; nothing else tells the tasks apart."""
    name = "abc"[int(torch.randint(3, (), generator=generator))]
    x = torch.randn(8, 1, generator=generator)
    support, query = (qs.examples(part, FACTORS[name] * part) for part in x.split(4))
    return Task(support, query, qs.regression(name=name))


class PartPerName(Learner):
    """Reads only the name of a task: y = factor(name) * x; KeyError for an unknown name."""

    reads_name: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterDict({name: torch.zeros(()) for name in FACTORS})

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        predictions: Tensor = self.factors[spec.name] * inputs
        return predictions


def test_fit_trains_the_part_of_each_name() -> None:
    learner = PartPerName()
    qs.fit(learner, source, 60, 12, optimiser=qs.optimisers.sgd(0.5), progress=False)
    for name, factor in FACTORS.items():
        assert float(learner.factors[name].detach()) == pytest.approx(factor, abs=1e-3)


def test_evaluate_scores_each_task_under_its_name() -> None:
    learner = PartPerName()
    with torch.no_grad():
        for name in ("a", "b"):
            learner.factors[name].fill_(FACTORS[name])
    found = qs.evaluate(learner, source, 24)
    errors = {name: found.row(name).mean for name in FACTORS}
    assert errors["a"] == errors["b"] == 0
    assert errors["c"] > 0.01


def test_the_stacks_before_training_and_of_a_step_hold_one_name_each() -> None:
    learner = PartPerName()
    first = prepare(learner, query_loss, [draw(source, 0, i) for i in range(8)], 12)
    assert sorted(each.spec.name for each in first) == ["a", "b", "c"]
    step = prepare_tasks(learner, [draw(source, 0, i) for i in range(8)])
    assert sorted(each.task.spec.name for each in step) == ["a", "b", "c"]
