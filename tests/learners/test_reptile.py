"""Reptile's gradient equals that of the paper's algorithm, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers import Classes, Reals
from quickstudy.backbones import MLP, Conv4
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.contract.check import doubled
from quickstudy.core import Task
from quickstudy.learners.gradient.descend import Adam, Rate, Weights, sgd
from quickstudy.learners.gradient.reptile import displacement, minibatches
from quickstudy.tasks.numbering import draw
from quickstudy.training.optimisers import sgd as outer_sgd
from quickstudy.training.schedules import linear

Updated = tuple[Weights, None]


def task(classes: qs.LabelledRows, seed: int = 0) -> Task:
    return doubled(draw(qs.episodes(classes, ways=3, shots=1, queries=3), seed, 0))


def made(**options: object) -> qs.Reptile:
    torch.manual_seed(0)
    settings = {"steps": 3, "rate": 0.01, "batch": 5} | options
    return qs.Reptile(MLP(256, (6,), outputs=3), **settings).double()  # type: ignore[arg-type]


def rows_dealt_out(task: Task) -> tuple[Tensor, Tensor]:
    """Support row of each class, then the first query row of each class, then the second, …"""
    places = [0, 1, 2] + [3 + way * 3 + turn for turn in range(3) for way in range(3)]
    inputs = torch.cat([task.support.inputs, task.query.inputs])[places]
    return inputs, torch.cat([task.support.targets, task.query.targets])[places]


def adapted_by_the_algorithm(learner: qs.Reptile, task: Task, *, adam: bool) -> list[Tensor]:
    """Three steps on rows 0-4, 5-9 and 10, 11, 0, 1, 2, with torch's own optimisers."""
    inputs, targets = rows_dealt_out(task)
    net = MLP(256, (6,), outputs=3).double()
    net.load_state_dict(learner.backbone.state_dict())
    if adam:
        optimiser: torch.optim.Optimizer = torch.optim.Adam(
            net.parameters(), lr=0.01, betas=(0.0, 0.999), eps=1e-12
        )
    else:
        optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    for k in range(3):
        chosen = [(5 * k + i) % 12 for i in range(5)]
        optimiser.zero_grad()
        F.cross_entropy(net(inputs[chosen]), targets[chosen]).backward()
        optimiser.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("adam", [True, False])
def test_the_gradient_equals_theta_minus_phi(classes: qs.LabelledRows, adam: bool) -> None:
    # Ours adds Adam's epsilon inside the root, torch outside; for so small a one, they agree.
    learner = made(update=Adam(0.0, epsilon=1e-12) if adam else sgd)
    one = task(classes)
    value = displacement(learner, one)
    value.backward()
    ends = adapted_by_the_algorithm(learner, one, adam=adam)
    distance = 0.0
    for theta, phi in zip(learner.backbone.parameters(), ends, strict=True):
        torch.testing.assert_close(theta.grad, theta.detach() - phi, rtol=1e-6, atol=1e-9)
        distance += float((theta - phi).square().sum()) / 2
    assert float(value) == pytest.approx(distance, rel=1e-6)
    assert distance > 0


def test_inner_steps_record_no_graph_of_second_derivatives(classes: qs.LabelledRows) -> None:
    recorded: list[bool] = []

    def watching(weights: Weights, gradients: Weights, rate: Rate, memory: None) -> Updated:
        recorded.extend(g.requires_grad for g in gradients.values())
        return sgd(weights, gradients, rate, memory)

    learner = made(update=watching)
    displacement(learner, task(classes)).backward()
    assert recorded
    assert not any(recorded)


def test_training_at_rate_one_moves_to_the_adapted_weights(classes: qs.LabelledRows) -> None:
    learner = made(update=sgd)
    source = qs.episodes(classes, ways=3, shots=1, queries=3)
    ends: list[Tensor] = []

    def remembering(generator: torch.Generator) -> Task:
        drawn = doubled(source(generator))
        ends[:] = adapted_by_the_algorithm(learner, drawn, adam=False)
        return drawn

    qs.fit(
        learner, remembering, 1, 1, optimiser=outer_sgd(1.0), schedule=linear,
        compute=qs.Compute("loop"), progress=False,
    )  # fmt: skip
    # `ends` belongs to the last task drawn, which is the one trained on.
    for theta, phi in zip(learner.backbone.parameters(), ends, strict=True):
        torch.testing.assert_close(theta.detach(), phi, rtol=1e-9, atol=1e-12)


def test_adapt_descends_on_the_whole_support(classes: qs.LabelledRows) -> None:
    learner, one = made(update=sgd, test_steps=7), task(classes)
    net = MLP(256, (6,), outputs=3).double()
    net.load_state_dict(learner.backbone.state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(7):
        optimiser.zero_grad()
        F.cross_entropy(net(one.support.inputs), one.support.targets).backward()
        optimiser.step()
    predictor = learner.eval()(one.support, one.spec)
    torch.testing.assert_close(predictor(one.query.inputs), net(one.query.inputs))
    assert len(learner.trajectory(one.support, one.spec)) == 8
    assert len(learner.train().trajectory(one.support, one.spec)) == 4


@pytest.mark.parametrize("norm", ["group", "batch", "support"])
def test_the_objective_batches_over_tasks_of_different_sizes(
    classes: qs.LabelledRows, norm: str
) -> None:
    torch.manual_seed(0)
    learner = qs.Reptile(Conv4(8, norm, image_size=16, outputs=4), 2, 0.01, batch=6).double()
    source = qs.episodes(classes, ways=(2, 4), shots=(1, 3), queries=2)
    tasks = [doubled(draw(source, 0, i)) for i in range(4)]
    assert len({len(t.support.weights) for t in tasks}) > 1
    losses = torch.stack([displacement(learner, t) for t in tasks])
    expected = torch.autograd.grad(losses.mean(), list(learner.parameters()))
    for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD):
        learner.zero_grad()
        plan = Plan(mapping, "", 4)
        found = accumulate(learner, prepare_tasks(learner, tasks), displacement, plan).loss
        torch.testing.assert_close(found, losses.detach(), rtol=1e-6, atol=1e-12)
        for parameter, gradient in zip(learner.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_in_training_and_testing(classes: qs.LabelledRows) -> None:
    learner, one = made(update=sgd, clip=1e-3, test_steps=1), task(classes)
    moved = learner.eval().adapt(one.support, one.spec)["weights"]
    steps = [moved[n] - p for n, p in learner.backbone.named_parameters()]
    length = torch.cat([step.flatten() for step in steps]).norm()
    assert float(length) == pytest.approx(0.01 * 1e-3)
    assert 0 < float(displacement(learner, one)) <= (3 * 0.01 * 1e-3) ** 2 / 2 + 1e-15


def test_batches_alternate_the_classes_and_omit_absent_rows() -> None:
    targets = torch.tensor([0, 0, 0, 1, 1, -1, 2, 2])
    weights = torch.tensor([1.0, 1, 2, 1, 0, 1, 1, 1])
    rows = qs.examples(torch.arange(8.0).unsqueeze(-1), targets, weights)
    first, second, third = minibatches(rows, size=3, count=3, answer=Classes(3))
    assert first.inputs.flatten().tolist() == [0, 3, 6]
    assert second.inputs.flatten().tolist() == [1, 7, 2]
    assert second.weights.tolist() == [1, 1, 2]
    assert third.inputs.flatten().tolist() == [0, 3, 6]  # six rows are present
    whole = minibatches(rows, size=10, count=1, answer=Classes(3))[0]
    assert whole.inputs[whole.weights > 0].flatten().tolist() == [0, 3, 6, 1, 7, 2]


def test_regression_rows_keep_their_order() -> None:
    targets = torch.tensor([[0.0], [float("nan")], [2.0]])
    rows = qs.examples(torch.tensor([[0.0], [1.0], [2.0]]), targets)
    batches = minibatches(rows, size=1, count=3, answer=Reals(missing=True))
    assert [float(batch.inputs) for batch in batches] == [0, 2, 0]


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        made(steps=0)
    with pytest.raises(ValueError, match="batch must be at least 1; found 0"):
        made(batch=0)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.Reptile(Conv4(4, "running", outputs=5))
    with pytest.raises(TypeError, match="needs a Reptile learner; found MAML"):
        displacement(qs.MAML(nn.Linear(2, 2)), Task(None, None, qs.classification(2)))
