"""The first layer's convolution: torch's derivatives, except with respect to the images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quickstudy.backbones.kernels.convolution import Conv3x3


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64, generator=generator)
    return x.to(memory_format=torch.channels_last)


def derivatives(conv: nn.Module, images: Tensor) -> list[Tensor]:
    """First to third derivatives in the parameters and, if they require grad, the images."""
    of = [*conv.parameters(), *([images] if images.requires_grad else [])]
    value, found = conv(images).pow(5).sum(), []
    for _ in range(3):
        gradients = torch.autograd.grad(value, of, create_graph=True)
        found += gradients
        value = torch.stack([s.pow(2).sum() for s in gradients]).sum()
    return found


@pytest.mark.parametrize("of_images", [False, True], ids=["data", "maps"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_derivatives_equal_torchs(images: Tensor, bias: bool, of_images: bool) -> None:
    conv = Conv3x3(2, 4, bias).double()
    torchs = nn.Conv2d(2, 4, 3, padding=1, bias=bias).double()
    torchs.load_state_dict(conv.state_dict())
    images.requires_grad_(of_images)
    for found, expected in zip(derivatives(conv, images), derivatives(torchs, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_no_gradient_of_the_images_is_computed(images: Tensor) -> None:
    """torch's own double backward runs one more convolution for it."""
    conv = Conv3x3(2, 4).double()
    with torch.profiler.profile() as profiled:
        derivatives(conv, images)
    with torch.profiler.profile() as torchs:
        derivatives(nn.Conv2d(2, 4, 3, padding=1).double(), images)
    assert convolutions(profiled) < convolutions(torchs)


def convolutions(profiled: torch.profiler.profile) -> int:
    names = ("aten::convolution", "aten::convolution_backward", "aten::_convolution")
    return sum(event.count for event in profiled.key_averages() if event.key in names)


def test_a_frozen_layer_and_functional_transforms_work(images: Tensor) -> None:
    conv = Conv3x3(2, 4).double()
    found = torch.func.grad(
        lambda w: torch.func.functional_call(conv, {"weight": w}, (images,)).square().sum()
    )(conv.weight)
    expected = torch.autograd.grad(conv(images).square().sum(), conv.weight)[0]
    torch.testing.assert_close(found, expected)
    assert not conv.requires_grad_(False)(images).requires_grad
