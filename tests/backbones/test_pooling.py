"""Max-pooling: torch's values and derivatives, in the layout of the input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.backbones.kernels.pooling import MaxPool2x2


@pytest.fixture(params=[(5, 6), (4, 7)], ids=str)
def maps(request: pytest.FixtureRequest) -> Tensor:
    """Maps in channels last without ties, where maxima would have no derivative."""
    height, width = request.param
    values = torch.randperm(3 * 4 * height * width, generator=torch.Generator().manual_seed(2))
    x = values.double().reshape(3, 4, height, width) / 100
    return x.to(memory_format=torch.channels_last).requires_grad_()


def test_derivatives_equal_finite_differences(maps: Tensor) -> None:
    pool = MaxPool2x2()
    assert torch.equal(pool(maps), F.max_pool2d(maps, 2))
    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps)


def test_every_derivative_keeps_the_layout(maps: Tensor) -> None:
    y = MaxPool2x2()(maps)
    direction = torch.rand_like(y).requires_grad_()
    (gradient,) = torch.autograd.grad(y, maps, direction, create_graph=True)
    (second,) = torch.autograd.grad(gradient.pow(3).sum(), direction)
    for result in (y, gradient, second):
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_ties_have_torchs_gradient() -> None:
    x = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    (found,) = torch.autograd.grad(MaxPool2x2()(x).sum(), x)
    (expected,) = torch.autograd.grad(F.max_pool2d(x, 2).sum(), x)
    assert torch.equal(found, expected)
    assert int(found.count_nonzero()) == 2 * 3 * 4


def test_forward_mode_vmap_and_inference_use_torchs_pooling() -> None:
    pool, x = MaxPool2x2(), torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last)
    _, along = torch.func.jvp(pool, (x,), (torch.ones_like(x),))
    assert torch.equal(along, torch.ones(3, 2, 2, 2))
    assert torch.equal(torch.vmap(pool)(x[None])[0], F.max_pool2d(x, 2))
    with torch.inference_mode():
        assert torch.equal(pool(x), F.max_pool2d(x, 2))
