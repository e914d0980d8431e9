"""The norms' closed-form derivatives against finite differences and plain operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

from quickstudy.backbones.kernels.standardise import EPSILON, Sharing, standardised

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
def test_first_and_second_derivatives_equal_finite_differences(
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
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = gradient.pow(3).sum()
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_the_third_derivative_equals_that_of_plain_operations(
    sharing: Sharing, shape: tuple[int, ...]
) -> None:
    weight, bias = affine()
    found = third_derivative(lambda x: standardised(x, weight, bias, sharing), rows(*shape))
    expected = third_derivative(
        lambda x: by_plain_operations(x, weight, bias, sharing), rows(*shape)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_vmap_over_second_order_gradients_equals_the_loop(sharing: Sharing) -> None:
    weight, bias = affine()

    def second_order_gradient(x: Tensor) -> Tensor:
        def squared_norm(x: Tensor) -> Tensor:
            return (
                grad(lambda x: standardised(x, weight, bias, sharing).pow(3).sum())(x).pow(2).sum()
            )

        gradient: Tensor = grad(squared_norm)(x)
        return gradient

    tasks = rows(3, 4, CHANNELS, 2, 2)
    torch.testing.assert_close(
        vmap(second_order_gradient)(tasks), torch.stack([second_order_gradient(x) for x in tasks])
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sharing", [Sharing(), Sharing(4)], ids=str)
@pytest.mark.parametrize("shape", [(80, 8, 40, 40), (5, 8, 34, 30)], ids=str)
def test_float32_stays_accurate_and_keeps_the_layout(
    shape: tuple[int, ...], sharing: Sharing, layout: torch.memory_format
) -> None:
    exact = rows(*shape) + 2
    affine = [torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)]
    single = [t.requires_grad_() for t in (exact.float().to(memory_format=layout), *affine)]
    double = [t.detach().double().requires_grad_() for t in (exact, *affine)]
    found, expected = (
        [y, *torch.autograd.grad(y.pow(3).mean(), inputs)]
        for inputs in (single, double)
        for y in [standardised(*inputs, sharing)]
    )
    assert all(t.is_contiguous(memory_format=layout) for t in found[:2])
    for a, b in zip(found, expected, strict=True):
        assert float((a.detach().double() - b).norm() / b.norm()) < 1e-5


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_forward_mode_derivatives_equal_those_of_plain_operations(sharing: Sharing) -> None:
    weight, bias = affine()

    def loss(norm: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: norm(x, weight, bias, sharing).pow(3).sum()

    x = rows(3, CHANNELS, 2)
    torch.testing.assert_close(
        hessian(loss(standardised))(x), hessian(loss(by_plain_operations))(x)
    )


def test_half_precision_no_rows_and_inference_use_torchs_norm() -> None:
    weight, bias = torch.ones(CHANNELS), torch.zeros(CHANNELS)
    assert standardised(torch.zeros(0, CHANNELS, 2, 2), weight, bias, Sharing()).shape[0] == 0
    with torch.inference_mode():
        x = rows(4, CHANNELS, 3, 3).float()
        y = standardised(x, weight, bias, Sharing(2))
    torch.testing.assert_close(y, by_plain_operations(x, weight, bias, Sharing(2)))
    halves = standardised(x.clone().bfloat16(), weight, bias, Sharing(2))
    assert halves.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        standardised(torch.ones(1, CHANNELS), weight, bias, Sharing())
