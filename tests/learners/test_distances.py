"""Distances equal those of numpy, and their gradients are right, also under vmap and at zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from quickstudy.learners.metric.distances import cosine, squared_euclidean

Distance = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("distance", [squared_euclidean, cosine])


def rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_squared_euclidean_equals_numpys() -> None:
    a, b = rows(7, 5), rows(4, 5, seed=1)
    expected = ((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_euclidean(a, b).numpy(), expected, rtol=1e-12)


def test_cosine_equals_numpys() -> None:
    x, y = rows(7, 5).numpy(), rows(4, 5, seed=1).numpy()
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    found = cosine(rows(7, 5), rows(4, 5, seed=1)).numpy()
    np.testing.assert_allclose(found, 1 - x @ y.T / lengths, rtol=1e-12)


@BOTH
def test_first_and_second_derivatives(distance: Distance) -> None:
    a, b = rows(3, 4).requires_grad_(), rows(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(distance, (a, b))
    assert torch.autograd.gradgradcheck(distance, (a, b))


@BOTH
def test_gradients_under_vmap_equal_those_of_a_loop(distance: Distance) -> None:
    """torch.cdist gives wrong gradients here, without an error."""
    a, b, upstream = rows(6, 3, 4), rows(6, 2, 4, seed=1), rows(6, 3, 2, seed=2)

    def total(a: Tensor, b: Tensor, upstream: Tensor) -> Tensor:
        return (distance(a, b) * upstream).sum()

    mapped = vmap(grad(total, argnums=(0, 1)))(a, b, upstream)
    for i in range(6):
        alone = grad(total, argnums=(0, 1))(a[i], b[i], upstream[i])
        for together, single in zip(mapped, alone, strict=True):
            torch.testing.assert_close(together[i], single, rtol=1e-12, atol=1e-12)


def test_float32_is_accurate_far_from_the_origin() -> None:
    a, b = rows(9, 64) + 100, rows(5, 64, seed=1) + 100
    found = squared_euclidean(a.float(), b.float()).double()
    exact = squared_euclidean(a.float().double(), b.float().double())
    assert ((found - exact).abs() / exact).max() < 1e-5


def test_a_row_of_zeros_has_cosine_zero_and_a_bounded_gradient() -> None:
    a = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    distances = cosine(a, rows(4, 3))
    assert torch.equal(distances, torch.ones_like(distances))
    distances.sum().backward()
    assert a.grad is not None
    assert a.grad.abs().max() < 10
