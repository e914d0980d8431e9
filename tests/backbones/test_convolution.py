"""The first layer's convolution: torch's values and derivatives, but for the images'."""

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
    """Of first, second and third order in its parameters, and of the images where they have one."""
    of = [*conv.parameters(), *([images] if images.requires_grad else [])]
    value, found = conv(images).pow(5).sum(), []
    for _ in range(3):
        slopes = torch.autograd.grad(value, of, create_graph=True)
        found += slopes
        value = torch.stack([s.pow(2).sum() for s in slopes]).sum()
    return found


@pytest.mark.parametrize("asked", [False, True], ids=["data", "maps"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_derivatives_are_torchs(images: Tensor, bias: bool, asked: bool) -> None:
    conv = Conv3x3(2, 4, bias).double()
    torchs = nn.Conv2d(2, 4, 3, padding=1, bias=bias).double()
    torchs.load_state_dict(conv.state_dict())
    images.requires_grad_(asked)
    for found, expected in zip(derivatives(conv, images), derivatives(torchs, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_no_derivative_goes_to_the_images(images: Tensor) -> None:
    """No convolution runs for it: torch's own runs one more, transposed, in a second derivative."""
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
    slopes = torch.func.grad(
        lambda w: torch.func.functional_call(conv, {"weight": w}, (images,)).square().sum()
    )(conv.weight)
    expected = torch.autograd.grad(conv(images).square().sum(), conv.weight)[0]
    torch.testing.assert_close(slopes, expected)
    assert not conv.requires_grad_(False)(images).requires_grad
