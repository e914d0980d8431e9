"""Layers with derivatives of their own, under every way in which torch differentiates."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from quickstudy.backbones import Conv4


@pytest.fixture(params=["group", "batch"])
def net(request: pytest.FixtureRequest) -> Conv4:
    torch.manual_seed(0)
    return Conv4(8, request.param, image_size=16).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(
        3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def penalty(net: Conv4, images: Tensor, directions: Tensor, batched: bool) -> Tensor:
    """The gradient of the size of a Jacobian, whose rows come at once or one by one."""
    y, weight = net(images), net.blocks[0].conv.weight  # type: ignore[union-attr]

    def rows(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, weight, v, create_graph=True, is_grads_batched=batched)[0]

    jacobian = rows(directions) if batched else torch.stack([rows(v) for v in directions])
    return torch.autograd.grad(jacobian.square().sum(), net.blocks[1].conv.weight)[0]  # type: ignore[union-attr]


def test_rows_of_a_jacobian_at_once_are_those_one_by_one(net: Conv4, images: Tensor) -> None:
    directions = torch.randn(4, 3, net.features, dtype=torch.float64)
    torch.testing.assert_close(
        penalty(net, images, directions, batched=True),
        penalty(net, images, directions, batched=False),
    )


def test_a_vmap_over_a_graph_recorded_before(net: Conv4, images: Tensor) -> None:
    y, weight = net(images), net.blocks[0].conv.weight  # type: ignore[union-attr]
    directions = torch.randn(4, 3, net.features, dtype=torch.float64)

    def row(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, weight, v, create_graph=True)[0]

    torch.testing.assert_close(
        torch.vmap(row)(directions), torch.stack([row(v) for v in directions])
    )


def test_under_autocast_gradients_are_those_of_float32_up_to_rounding(
    net: Conv4, images: Tensor
) -> None:
    net, images = net.float(), images.float()
    (expected,) = torch.autograd.grad(net(images).square().mean(), net.blocks[0].conv.weight)  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(images).float().square().mean()
    (found,) = torch.autograd.grad(loss, net.blocks[0].conv.weight)  # type: ignore[union-attr]
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.2


def test_a_traced_network_is_the_same_function(net: Conv4, images: Tensor) -> None:
    traced, file = torch.jit.trace(net, images), io.BytesIO()
    torch.jit.save(traced, file)
    torch.testing.assert_close(traced(images[:2]), net(images[:2]))


def test_a_network_without_data_has_shapes(net: Conv4) -> None:
    images = torch.zeros(3, 1, 16, 16, dtype=torch.float64, device="meta")
    assert net.to("meta")(images).shape == (3, net.features)
