"""Layers with custom gradients under every mode of torch's autograd."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import Conv4
from quickstudy.contract.check import doubled
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder
from quickstudy.objectives import query_loss
from quickstudy.training.preflight import set_up


@pytest.fixture(params=["group", "batch"])
def norm(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def net(norm: str) -> Conv4:
    torch.manual_seed(0)
    return Conv4(8, norm, image_size=16).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(
        3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def penalty(net: Conv4, images: Tensor, directions: Tensor, batched: bool) -> Tensor:
    """The gradient of a Jacobian's squared norm; its rows are computed at once or one by one."""
    y, weight = net(images), net.blocks[0].conv.weight  # type: ignore[union-attr]

    def rows(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, weight, v, create_graph=True, is_grads_batched=batched)[0]

    jacobian = rows(directions) if batched else torch.stack([rows(v) for v in directions])
    return torch.autograd.grad(jacobian.square().sum(), net.blocks[1].conv.weight)[0]  # type: ignore[union-attr]


def test_batched_rows_of_a_jacobian_equal_single_ones(net: Conv4, images: Tensor) -> None:
    directions = torch.randn(4, 3, net.features, dtype=torch.float64)
    torch.testing.assert_close(
        penalty(net, images, directions, batched=True),
        penalty(net, images, directions, batched=False),
    )


@pytest.mark.parametrize("of_images", [False, True], ids=["data", "maps"])
def test_gradients_are_the_same_without_create_graph(
    net: Conv4, images: Tensor, of_images: bool
) -> None:
    images.requires_grad_(of_images)
    of = [*net.parameters(), *([images] if of_images else [])]
    value = net(images).pow(3).sum()
    recorded = torch.autograd.grad(value, of, create_graph=True)
    plain = torch.autograd.grad(value, of)
    for found, expected in zip(plain, recorded, strict=True):
        assert expected.requires_grad
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_weights_in_channels_last_get_the_same_meta_gradient(norm: str, order: int) -> None:
    images = torch.randn(9, 1, 16, 16, dtype=torch.float64)
    targets = torch.arange(9) % 3
    spec = qs.classification(3)
    support, query = (qs.examples(images[p], targets[p]) for p in (slice(3), slice(3, 9)))
    task = doubled(qs.Task(support, query, spec))
    found: list[list[Tensor]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = Conv4(8, norm, image_size=16, outputs=3).double()
        learner = qs.MAML(net, 2, 0.1, FirstOrder() if order == 1 else Exact())
        learner.to(memory_format=layout)  # type: ignore[call-overload]
        loss = query_loss(learner, task).loss
        found.append(list(torch.autograd.grad(loss, list(net.parameters()))))
    for plain, last in zip(*found, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(last, plain, rtol=1e-9, atol=1e-9)


def test_set_up_converts_weights_to_channels_last(norm: str) -> None:
    learner = qs.MAML(Conv4(8, norm, image_size=16, outputs=3))
    set_up(learner)
    kernels = [p for p in learner.parameters() if p.ndim == 4]
    assert kernels
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


def test_vmap_over_gradients_of_an_existing_graph(net: Conv4, images: Tensor) -> None:
    y, weight = net(images), net.blocks[0].conv.weight  # type: ignore[union-attr]
    directions = torch.randn(4, 3, net.features, dtype=torch.float64)

    def row(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, weight, v, create_graph=True)[0]

    torch.testing.assert_close(
        torch.vmap(row)(directions), torch.stack([row(v) for v in directions])
    )


def test_gradients_under_autocast_equal_float32_up_to_rounding(net: Conv4, images: Tensor) -> None:
    net, images = net.float(), images.float()
    (expected,) = torch.autograd.grad(net(images).square().mean(), net.blocks[0].conv.weight)  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(images).float().square().mean()
    (found,) = torch.autograd.grad(loss, net.blocks[0].conv.weight)  # type: ignore[union-attr]
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.2


def test_a_traced_network_gives_the_same_output(net: Conv4, images: Tensor) -> None:
    traced, file = torch.jit.trace(net, images), io.BytesIO()
    torch.jit.save(traced, file)
    torch.testing.assert_close(traced(images[:2]), net(images[:2]))


def test_a_network_on_the_meta_device_gives_shapes(net: Conv4) -> None:
    images = torch.zeros(3, 1, 16, 16, dtype=torch.float64, device="meta")
    assert net.to("meta")(images).shape == (3, net.features)
