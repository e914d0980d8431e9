"""CAVIA equals its equations, differentiated with plain autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.core import Task
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 2, generator=generator).double()
    y = x.sin().sum(-1, keepdim=True)
    ones = torch.ones(10).double()
    support, query = (
        qs.Examples(x[s], y[s], ones[s], one_place(ones[s])) for s in (slice(4), slice(4, 10))
    )
    return Task(support, query, qs.regression())


def made(**options: object) -> qs.CAVIA:
    torch.manual_seed(0)
    backbone = MLP(2, (5,), outputs=1)
    return qs.CAVIA(backbone, 3, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2])
def test_it_equals_a_network_with_the_context_among_its_inputs(steps: int) -> None:
    learner, one = made(steps=steps, rate=0.7), task()
    names = dict(learner.named_parameters())
    own = {
        name: names[name].detach().clone().requires_grad_()
        for name in (
            "network.backbone.layers.0.weight", "network.shift.weight",
            "network.backbone.layers.0.bias", "network.backbone.head.weight",
            "network.backbone.head.bias",
        )
    }  # fmt: skip
    first, context_part, bias, head, offset = own.values()

    def run(context: Tensor, x: Tensor) -> Tensor:
        inputs = torch.cat([x, context.expand(len(x), 3)], -1)
        hidden = F.linear(inputs, torch.cat([first, context_part], -1), bias).relu()
        return F.linear(hidden, head, offset)

    context = torch.zeros(3).double().requires_grad_()
    for _ in range(steps):
        loss = F.mse_loss(run(context, one.support.inputs), one.support.targets)
        context = context - 0.7 * torch.autograd.grad(loss, context, create_graph=True)[0]
    expected = F.mse_loss(run(context, one.query.inputs), one.query.targets)
    gradients = torch.autograd.grad(expected, list(own.values()))

    found = query_loss(learner, one).loss
    found.backward()
    torch.testing.assert_close(found, expected)
    state = learner.adapt(one.support, one.spec)
    torch.testing.assert_close(state["weights"]["context"], context)
    for name, gradient in zip(own, gradients, strict=True):
        torch.testing.assert_close(names[name].grad, gradient, rtol=1e-9, atol=1e-12)


def test_film_scales_and_shifts_channels() -> None:
    torch.manual_seed(0)
    learner = qs.CAVIA(Conv4(4, outputs=2, image_size=16), 3, at="blocks.3.norm", film=True)
    images, context = torch.rand(5, 1, 16, 16), torch.randn(3)
    body = learner.backbone.blocks
    assert isinstance(body, nn.Sequential)
    hidden = body[3].conv(body[:3](images))  # type: ignore[operator]
    hidden = body[3].norm(hidden)  # type: ignore[operator]
    scale = 1 + context @ dict(learner.named_parameters())["network.scale.weight"].T
    shift = context @ learner.network.shift.weight.T
    hidden = hidden * scale[:, None, None] + shift[:, None, None]
    expected = learner.backbone.head(F.max_pool2d(hidden.relu(), 2).flatten(1))  # type: ignore[operator]
    state = {"weights": {"context": context}, "statistics": []}
    found = learner.predict(state, images, qs.regression(2))
    torch.testing.assert_close(found, expected)


def test_only_the_context_adapts_and_the_network_does_not_change() -> None:
    learner, one = made(), task()
    before = repr(learner.backbone)
    state = learner.adapt(one.support, one.spec)
    assert set(state["weights"]) == {"context"}
    assert state["weights"]["context"].shape == (3,)
    assert not any(module._forward_hooks for module in learner.modules())
    assert repr(learner.backbone) == before
    start = learner.trajectory(one.support, one.spec)[0]
    torch.testing.assert_close(
        learner.predict(start, one.query.inputs, one.spec), learner.backbone(one.query.inputs)
    )


def test_features_are_the_inputs_of_the_head_of_the_modulated_network() -> None:
    for at in ("layers.0", "head"):
        learner, one = made(at=at, steps=2), task()
        start, end = (learner.trajectory(one.support, one.spec)[k] for k in (0, -1))
        features = learner.embed(end, one.query.inputs)
        head = learner.backbone.head(features)  # type: ignore[operator]
        if at == "head":
            torch.testing.assert_close(features, learner.embed(start, one.query.inputs))
            head = head + end["weights"]["context"] @ learner.network.shift.weight.T
        torch.testing.assert_close(head, learner.predict(end, one.query.inputs, one.spec))
    assert qs.CAVIA(nn.Sequential(nn.Linear(2, 1))).embed(start, one.query.inputs) is None


def test_a_hook_registered_before_gets_the_output_of_the_modulated_layer() -> None:
    learner, one = made(), task()
    seen: list[Tensor] = []
    layer = learner.backbone.get_submodule("layers.0")
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    state = {"weights": {"context": torch.ones(3).double()}, "statistics": []}
    learner.predict(state, one.query.inputs, one.spec)
    moved = learner.network.shift.weight.sum(1)
    torch.testing.assert_close(seen[0], layer(one.query.inputs) + moved)


def test_the_context_has_the_type_of_the_backbone() -> None:
    learner = qs.CAVIA(MLP(2, (5,), outputs=1).double(), film=True)
    assert {p.dtype for p in learner.parameters()} == {torch.float64}


def test_training_does_not_change_the_initial_context_of_zero() -> None:
    learner = qs.CAVIA(MLP(outputs=1))
    qs.fit(learner, qs.Sinusoids(shots=5, queries=5), 3, 4, progress=False)
    assert not learner.network.context.any()


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at='block' is not a layer. The backbone has: layers.0"):
        made(at="block")
    with pytest.raises(ValueError, match=r"at='layers.1' is a ReLU, which has no weight"):
        made(at="layers.1")
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        made(steps=0)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.CAVIA(Conv4(4, "running", outputs=5))
    with pytest.raises(ValueError, match="Linear has no layer with a weight inside it"):
        qs.CAVIA(nn.Linear(2, 1))
