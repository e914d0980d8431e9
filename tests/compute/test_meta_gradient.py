"""MAML's meta-gradient equals computations that use neither torch.func nor our engine.

Three references, in float64: plain autograd through a forward pass written out, a closed form
for linear regression, and finite differences of the adapted loss.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import Conv4
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Examples, Task
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder
from quickstudy.tasks.examples import one_place
from witness import (
    TOLERANCE,
    Forward,
    Weights,
    adapted_loss,
    engine_gradient,
    error,
    flat,
    in_general_position,
    independent_gradient,
    vectors_task,
)


def images_task(seed: int, weighted: bool) -> Task:
    """Noisy pictures (1, 16, 16) of three classes; ``weighted`` has padding and double rows."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 1, 16, 16, generator=generator, dtype=torch.float64)

    def drawn(n: int) -> Examples:
        noise = torch.randn(3 * n, 1, 16, 16, generator=generator, dtype=torch.float64)
        weights = torch.ones(3 * n, dtype=torch.float64)
        if weighted:
            weights[:4] = torch.tensor([2.0, 0.0, 0.5, 0.0])
        inputs = centres.repeat(n, 1, 1, 1) + noise
        return Examples(inputs, torch.arange(3).repeat(n), weights, one_place(weights))

    return Task(drawn(2), drawn(3), qs.classification(3))


# Conv4, written out.


def conv4_written_out(norm: str) -> Forward:
    def forward(weights: Weights, rows: Examples, support: Examples | None) -> Tensor:
        x, s = rows.inputs, None if support is None else support.inputs
        for i in range(4):
            name = f"blocks.{i}."
            conv = weights[name + "conv.weight"], weights.get(name + "conv.bias")
            gain, shift = weights[name + "norm.weight"], weights[name + "norm.bias"]
            x = F.conv2d(x, *conv, padding=1)
            s = None if s is None else F.conv2d(s, *conv, padding=1)
            if norm == "group":
                x = normalised_by_groups(x, gain, shift, groups=2)
            elif norm == "batch" or s is None or support is None:
                x = normalised_by_statistics(x, x, rows.weights, gain, shift)
            else:
                x = normalised_by_statistics(x, s, support.weights, gain, shift)
                s = normalised_by_statistics(s, s, support.weights, gain, shift)
            x = F.max_pool2d(x.clamp_min(0), 2)
            s = None if s is None else F.max_pool2d(s.clamp_min(0), 2)
        predictions: Tensor = x.flatten(1) @ weights["head.weight"].T + weights["head.bias"]
        return predictions

    return forward


def normalised_by_groups(x: Tensor, gain: Tensor, shift: Tensor, groups: int) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    mean = parts.mean(2, keepdim=True)
    variance = ((parts - mean) ** 2).mean(2, keepdim=True)
    normal = ((parts - mean) / (variance + 1e-5) ** 0.5).reshape(x.shape)
    return normal * gain[:, None, None] + shift[:, None, None]


def normalised_by_statistics(
    x: Tensor, of: Tensor, weights: Tensor, gain: Tensor, shift: Tensor
) -> Tensor:
    """Normalise x by the mean and variance of the rows ``of``, each counted ``weights`` times."""
    share = (weights / weights.sum())[:, None, None, None]
    mean = (share * of).sum(0).mean((1, 2))[:, None, None]
    variance = (share * (of - mean) ** 2).sum(0).mean((1, 2))[:, None, None]
    return (x - mean) / (variance + 1e-5) ** 0.5 * gain[:, None, None] + shift[:, None, None]


def check(learner: qs.MAML, forward: Forward, tasks: list[Task], **options: Any) -> None:
    """Every task alone, and the mean of all, under every mapping."""
    options |= {"first_order": isinstance(learner.meta_gradient, FirstOrder)}
    expected = [
        independent_gradient(
            forward, learner.backbone, task, learner.steps, learner.rate, **options
        )
        for task in tasks
    ]
    for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD):
        for task, right in zip(tasks, expected, strict=True):
            assert error(engine_gradient(learner, [task], Plan(mapping, "", 1)), right) <= TOLERANCE
        mean = torch.stack(expected).mean(0)
        plan = Plan(mapping, "", len(tasks))
        assert error(engine_gradient(learner, tasks, plan), mean) <= TOLERANCE


@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("norm", ["group", "batch", "support"])
def test_meta_gradient_of_conv4(norm: str, steps: int, first_order: bool, weighted: bool) -> None:
    torch.manual_seed(0)
    net = in_general_position(Conv4(16, norm, image_size=16, outputs=3))
    learner = qs.MAML(net, steps, 0.1, FirstOrder() if first_order else Exact())
    check(learner, conv4_written_out(norm), [images_task(seed, weighted) for seed in range(2)])


@pytest.mark.parametrize("adapts", ["head.*", "blocks.[23].*", "*.weight"])
@pytest.mark.parametrize("norm", ["group", "batch", "support"])
def test_meta_gradient_where_some_layers_adapt(norm: str, adapts: str) -> None:
    torch.manual_seed(0)
    net = in_general_position(Conv4(16, norm, image_size=16, outputs=3))
    learner = qs.MAML(net, steps=2, rate=0.1, adapts=(adapts,))
    tasks = [images_task(seed, weighted=seed == 1) for seed in range(2)]
    check(learner, conv4_written_out(norm), tasks, adapts=adapts)


def test_first_and_second_order_differ() -> None:
    """Otherwise the tests above would pass without second derivatives."""
    net = in_general_position(Conv4(16, image_size=16, outputs=3))
    task, plan = images_task(0, False), Plan(Mapping.LOOP, "", 1)
    second, first = (
        engine_gradient(qs.MAML(net, 2, 0.1, order), [task], plan)
        for order in (Exact(), FirstOrder())
    )
    assert error(first, second) > 1e-2


# Closed form: linear regression, whose adapted weights are affine in the initial ones.


@pytest.mark.parametrize("mapping", [Mapping.LOOP, Mapping.VMAP_GRAD])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_meta_gradient_of_linear_regression_equals_its_closed_form(
    steps: int, mapping: Mapping
) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(n: int) -> Examples:
        x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        weights = torch.rand(n, generator=generator, dtype=torch.float64)
        return Examples(x, y, weights, one_place(weights))

    support, query = drawn(7), drawn(5)
    net = in_general_position(nn.Linear(3, 1, bias=False))
    learner = qs.MAML(net, steps, rate=0.1)
    found = engine_gradient(learner, [Task(support, query, qs.regression())], Plan(mapping, "", 1))

    def quadratic(rows: Examples) -> tuple[Tensor, Tensor]:
        """Loss = theta' A theta / 2 - b' theta + constant."""
        share = (rows.weights / rows.weights.sum())[:, None]
        return 2 * rows.inputs.T @ (share * rows.inputs), 2 * rows.inputs.T @ (share * rows.targets)

    (a, b), (c, d) = quadratic(support), quadratic(query)
    contraction = torch.eye(3, dtype=torch.float64) - 0.1 * a
    theta = next(net.parameters()).detach().T
    for _ in range(steps):
        theta = contraction @ theta + 0.1 * b
    expected = torch.linalg.matrix_power(contraction, steps) @ (c @ theta - d)
    assert error(found, expected.flatten()) <= 1e-13


# Finite differences of the adapted loss, which need no second derivative.


@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_of_a_small_network_equals_finite_differences(steps: int) -> None:
    task = vectors_task(0)
    net = in_general_position(nn.Sequential(nn.Linear(24, 2), nn.Tanh(), nn.Linear(2, 3)))
    found = engine_gradient(qs.MAML(net, steps, 0.1), [task], Plan(Mapping.LOOP, "", 1))
    theta = flat([p.detach() for p in net.parameters()])
    shapes = {n: p.shape for n, p in net.named_parameters()}

    def forward(weights: Weights, rows: Examples, support: Examples | None) -> Tensor:
        hidden = (rows.inputs @ weights["0.weight"].T + weights["0.bias"]).tanh()
        predictions: Tensor = hidden @ weights["2.weight"].T + weights["2.bias"]
        return predictions

    def loss(vector: Tensor) -> float:
        sizes = [shape.numel() for shape in shapes.values()]
        parts = zip(shapes.items(), vector.split(sizes), strict=True)
        weights = {n: part.view(shape).requires_grad_() for (n, shape), part in parts}
        return float(adapted_loss(forward, weights, task, steps, 0.1, create_graph=False))

    h, expected = 1e-3, torch.zeros_like(theta)
    for i in range(len(theta)):
        step = torch.zeros_like(theta)
        step[i] = h
        near, far = (loss(theta + k * step) - loss(theta - k * step) for k in (1, 2))
        expected[i] = (8 * near - far) / (12 * h)  # error of order h^4
    assert error(found, expected) <= TOLERANCE
