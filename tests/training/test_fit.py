"""One training step: the loss and score that it returns, and the losses that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.balancing.combine import mean
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome, query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.training import schedules
from quickstudy.training.fit import NonFiniteLoss, _Trainer
from quickstudy.training.log import Step, Training
from quickstudy.training.optimisers import adam, sgd

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
    _, loss, score, *_ = steps.step(adam()(steps.learner.parameters()), STEP)
    assert loss == pytest.approx(2 * expected)
    assert score == pytest.approx(expected)  # of a regression, the mean squared error


def test_an_unknown_score_does_not_stop_training() -> None:
    steps = trainer(lambda learner, task: query_loss(learner, task).loss)
    _, loss, score, *_ = steps.step(adam()(steps.learner.parameters()), STEP)
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


def fitted(steps: int, **options: Any) -> tuple[qs.Learner, list[Step], Training]:
    torch.manual_seed(0)
    learner, seen = qs.MAML(MLP(outputs=1), rate=0.01), []
    training = qs.fit(
        learner, SOURCE, steps, TASKS, progress=False, on_step=seen.append, **options
    )  # fmt: skip
    return learner, seen, training


def test_a_gradient_longer_than_clip_is_scaled_to_it_and_a_shorter_one_is_left() -> None:
    torch.manual_seed(0)
    before = qs.MAML(MLP(outputs=1), rate=0.01)
    after, (step,), _ = fitted(1, optimiser=sgd(0.5), clip=0.25)
    assert step.gradient_norm > 1
    moved = [b - a for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert float(torch.nn.utils.get_total_norm(moved)) == pytest.approx(0.5 * 0.25, rel=1e-4)
    unclipped, _, _ = fitted(1, optimiser=sgd(0.5))
    loosely, _, _ = fitted(1, optimiser=sgd(0.5), clip=1e6)
    for a, b in zip(unclipped.parameters(), loosely.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"clip must be a positive number; found 0"):
        fitted(1, clip=0)


def test_each_step_is_told_with_its_validation_after_the_checkpoint(tmp_path: Path) -> None:
    validation = qs.Validation(SOURCE, every=2, tasks=2)
    found: list[bool] = []

    def look(step: Step) -> None:
        found.append((tmp_path / "checkpoint.safetensors").exists())

    torch.manual_seed(0)
    learner = qs.MAML(MLP(outputs=1), rate=0.01)
    qs.fit(learner, SOURCE, 3, TASKS, progress=False, on_step=look, run=tmp_path,
           checkpoint_every=2)  # fmt: skip
    assert found == [False, True, True]
    _, seen, training = fitted(3, validation=validation, schedule=schedules.cosine)
    assert [step.step for step in seen] == [1, 2, 3]
    assert [step.validation is None for step in seen] == [True, False, False]
    assert [step.rate for step in seen] == pytest.approx([1e-3, 0.75e-3, 0.25e-3])
    assert training.best_score in [step.validation.mean for step in seen if step.validation]


def test_a_finished_run_can_be_trained_further_as_if_it_had_been_longer(tmp_path: Path) -> None:
    expected, _, _ = fitted(9)
    fitted(4, run=tmp_path)
    longer, seen, training = fitted(9, run=tmp_path, resume=True)
    assert [step.step for step in seen] == [5, 6, 7, 8, 9]
    assert training.finished
    for name, value in expected.state_dict().items():
        assert torch.equal(longer.state_dict()[name], value)
    with pytest.raises(ValueError, match=r"started with steps=9 \(now 8\)"):
        fitted(8, run=tmp_path, resume=True)


def test_an_objective_that_gives_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective: must give a scalar tensor.*found NoneType"):
        fitted(1, objective=lambda learner, task: None)
