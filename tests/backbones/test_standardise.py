"""The closed-form derivatives of the norms against differences and against plain operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from quickstudy.backbones.standardise import EPSILON, Sharing, standardised

CHANNELS = 6
SHARINGS = [Sharing(), Sharing(3), Sharing(1)]
SHAPES = [(4, CHANNELS, 3, 5), (5, CHANNELS)]


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.3


def affine() -> tuple[Tensor, Tensor]:
    return rows(CHANNELS) - 0.5, rows(2, CHANNELS)[1]


def by_plain_operations(x: Tensor, weight: Tensor, bias: Tensor, sharing: Sharing) -> Tensor:
    over = (1, -1, *[1] * (x.ndim - 2))
    if sharing.groups is None:
        of, dims = x, [d for d in range(x.ndim) if d != 1]
    else:
        of, dims = x.reshape(len(x), sharing.groups, -1), [2]
    centred = of - of.mean(dims, keepdim=True)
    z = centred / (centred.square().mean(dims, keepdim=True) + EPSILON).sqrt()
    return z.reshape(x.shape) * weight.reshape(over) + bias.reshape(over)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_derivatives_of_first_and_second_order_are_those_of_differences(
    sharing: Sharing, shape: tuple[int, ...]
) -> None:
    inputs = [t.requires_grad_() for t in (rows(*shape), *affine())]

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return standardised(x, weight, bias, sharing)

    torch.testing.assert_close(function(*inputs), by_plain_operations(*inputs, sharing))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def third_derivative(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    value = norm(x).pow(3).sum()
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        value = slope.pow(3).sum()
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_the_third_derivative_is_that_of_plain_operations(
    sharing: Sharing, shape: tuple[int, ...]
) -> None:
    weight, bias = affine()
    found = third_derivative(lambda x: standardised(x, weight, bias, sharing), rows(*shape))
    expected = third_derivative(
        lambda x: by_plain_operations(x, weight, bias, sharing), rows(*shape)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_vmap_over_gradients_of_gradients_is_the_loop(sharing: Sharing) -> None:
    weight, bias = affine()

    def slope_of_slope(x: Tensor) -> Tensor:
        def steepness(x: Tensor) -> Tensor:
            return (
                grad(lambda x: standardised(x, weight, bias, sharing).pow(3).sum())(x).pow(2).sum()
            )

        slope: Tensor = grad(steepness)(x)
        return slope

    tasks = rows(3, 4, CHANNELS, 2, 2)
    torch.testing.assert_close(
        vmap(slope_of_slope)(tasks), torch.stack([slope_of_slope(x) for x in tasks])
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sharing", [Sharing(), Sharing(4)], ids=str)
def test_float32_stays_accurate_and_keeps_the_layout(
    sharing: Sharing, layout: torch.memory_format
) -> None:
    exact = rows(80, 8, 40, 40) + 2
    x = exact.float().to(memory_format=layout).requires_grad_()
    weight, bias = torch.ones(8), torch.zeros(8)
    y = standardised(x, weight, bias, sharing)
    (slope,) = torch.autograd.grad(y.pow(3).sum(), x)
    assert y.is_contiguous(memory_format=layout)
    assert slope.is_contiguous(memory_format=layout)
    expected = standardised(exact, weight.double(), bias.double(), sharing)
    assert float((y.detach().double() - expected).abs().max()) < 3e-6
