"""Two-stage fine-tuning: its loss against a loop in float64, and what its steps do."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from made_up import bright_boxes
from quickstudy.backbones import Conv4
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.transfer.two_stage_detection import BoxLoss
from quickstudy.tasks.numbering import draw

SCALE = 20.0


def made(**options: object) -> qs.TwoStageDetection:
    torch.manual_seed(0)
    backbone = Conv4(channels=4, image_size=16, pools=1, flat=False)
    return qs.TwoStageDetection(backbone, slots=3, width=4, **options).double()


def doubled() -> qs.Task:
    task = draw(bright_boxes(shots=3), 0, 0)
    support = task.support._replace(
        inputs=task.support.inputs.double(), weights=task.support.weights.double(),
        targets={"boxes": task.support.targets["boxes"].double(),
                 "classes": task.support.targets["classes"]},
    )  # fmt: skip
    return task._replace(support=support)


def test_without_steps_it_is_the_nearest_class_mean_by_cosine() -> None:
    task, learner = doubled(), made(steps=0)
    state = learner.adapt(task.support, task.spec)
    maps = learner.backbone(task.support.inputs)
    features, classes, _ = learner._objects(task.support, maps)
    rows = [features[classes == k].mean(0) for k in (0, 1)]
    centre = (rows[0] + rows[1]) / 2  # classes count alike, though two objects are of class 0
    for k in (0, 1):
        centred = features[classes == k] - centre
        direction = (centred / centred.norm(dim=1, keepdim=True)).mean(0)
        expected = SCALE * direction / direction.norm()
        assert torch.allclose(state["weight"][:, k], expected)
    assert torch.equal(state["edges"]["bias"], learner.head.edges.bias)


def test_one_step_goes_down_the_gradient_of_the_balanced_loss() -> None:
    """Against finite differences of a loss that is written again, object by object."""
    task, learner = doubled(), made(steps=1, rate=0.01, update=sgd)
    before = made(steps=0).adapt(task.support, task.spec)
    after = learner.adapt(task.support, task.spec)

    @torch.no_grad()
    def loss(bias: torch.Tensor) -> float:
        hidden = learner.head(learner.backbone(task.support.inputs)).hidden
        total, objects = 0.0, 0
        for i in range(3):
            box = task.support.targets["boxes"][i, :1]
            cells, aims = learner.head.aims(box, (hidden.shape[-2], hidden.shape[-1]))
            row = hidden[i, :, cells[0] // hidden.shape[-1], cells[0] % hidden.shape[-1]]
            wrong = (learner.head.edges.weight @ row + bias - aims[0]).abs()
            total += float(wrong[:2].sum() + 0.1 * wrong[2:].sum())
            objects += 1
        return total / objects

    start, small = before["edges"]["bias"].detach(), 1e-6
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = small
        gradient = (loss(start + step) - loss(start - step)) / (2 * small)
        moved = float(after["edges"]["bias"][k] - start[k])
        assert moved == pytest.approx(-0.01 * gradient, abs=1e-8)


def test_steps_lower_the_loss_and_leave_the_learner_as_it_was() -> None:
    task = doubled()
    learner = made(steps=20, rate=0.01)
    maps = learner.backbone(task.support.inputs)
    rows = learner.crops_of(task.support, maps, task.spec)
    kept = {name: value.clone() for name, value in learner.state_dict().items()}
    losses = []
    for steps in (0, 20):
        learner.steps = steps
        state = learner.adapt(task.support, task.spec)
        features = rows.features - state["mean"]
        features = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
        loss: BoxLoss = learner._loss(task.support, maps, rows, features, state["seen"])
        losses.append(float(loss({"classes": state["weight"].mT, **state["edges"]})))
    assert losses[1] < 0.9 * losses[0]
    assert all(torch.equal(value, kept[name]) for name, value in learner.state_dict().items())


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 0, rate and scale positive"):
        made(rate=0.0)
