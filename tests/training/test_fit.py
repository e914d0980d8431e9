"""One training step: the loss and score that it returns, and the losses that it refuses."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome, query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.training.combine import mean
from quickstudy.training.fit import NonFiniteLoss, _Trainer
from quickstudy.training.optimisers import adam

SOURCE, TASKS, STEP = qs.Sinusoids(5, 5), 3, 2


def trainer(objective: Objective) -> _Trainer:
    torch.manual_seed(0)
    learner = qs.MAML(MLP(outputs=1), rate=0.01)
    plan = Plan(Mapping.LOOP, "", TASKS)
    return _Trainer(learner, SOURCE, objective, mean, 0, TASKS, plan, scored=qs.regression())


def doubled(learner: Learner, task: Task) -> Outcome:
    loss, score = query_loss(learner, task)
    return Outcome(2 * loss, score)


def test_a_step_returns_mean_loss_and_score() -> None:
    steps = trainer(doubled)
    drawn = [draw(SOURCE, 0, STEP * TASKS + i) for i in range(TASKS)]
    expected = sum(float(query_loss(steps.learner, task).loss.detach()) for task in drawn) / TASKS
    loss, score = steps.step(adam()(steps.learner.parameters()), STEP)
    assert loss == pytest.approx(2 * expected)
    assert score == pytest.approx(expected)  # of a regression, the mean squared error


def test_an_unknown_score_does_not_stop_training() -> None:
    steps = trainer(lambda learner, task: query_loss(learner, task).loss)
    loss, score = steps.step(adam()(steps.learner.parameters()), STEP)
    assert loss > 0
    assert score != score


def test_a_loss_that_is_not_finite_stops_training_even_if_its_gradient_is_finite() -> None:
    def endless(learner: Learner, task: Task) -> Outcome:
        loss, score = query_loss(learner, task)
        return Outcome(loss + torch.inf, score)

    steps = trainer(endless)
    before = {name: value.clone() for name, value in steps.learner.state_dict().items()}
    with pytest.raises(NonFiniteLoss, match=f"loss of a task became inf at step {STEP}"):
        steps.step(adam()(steps.learner.parameters()), STEP)
    assert all(value.equal(before[n]) for n, value in steps.learner.state_dict().items())
