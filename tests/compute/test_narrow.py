"""Narrow products as elementwise operators give what matrix products give, or decline."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quickstudy.training.narrow import NARROW_PRODUCTS

aten = torch.ops.aten


def numbers(*shape: int) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.double
    )


@pytest.mark.parametrize("sides", [(4, 1, 3), (4, 3, 1), (1, 4, 3), (1, 1, 1)])
@pytest.mark.parametrize("tasks", [(), (5,)])
def test_products_with_a_side_of_one(sides: tuple[int, int, int], tasks: tuple[int, ...]) -> None:
    m, k, n = sides
    a, b, c = numbers(*tasks, m, k), numbers(*tasks, k, n), numbers(n)
    product, added = (aten.bmm, aten.baddbmm) if tasks else (aten.mm, aten.addmm)
    torch.testing.assert_close(NARROW_PRODUCTS[product.default](a, b), a @ b)
    found = NARROW_PRODUCTS[added.default](c, a, b, beta=2, alpha=-3)
    torch.testing.assert_close(found, 2 * c - 3 * (a @ b))
    torch.testing.assert_close(NARROW_PRODUCTS[added.default](c, a, b), c + a @ b)


def test_what_a_library_does_otherwise_is_left_to_it() -> None:
    product, added = NARROW_PRODUCTS[aten.mm.default], NARROW_PRODUCTS[aten.addmm.default]
    row, column = numbers(1, 3), numbers(3, 1)
    for a, b in (
        (numbers(4, 3), numbers(3, 2)),  # no side of one
        (row.long(), column.long()),
        (row.bfloat16(), column.bfloat16()),
        (row.float(), column),
        (row, numbers(1, 1)),  # which elementwise operators would take, and mm does not
        (numbers(400, 1), numbers(1, 400)),  # large
    ):
        assert product(a, b) is NotImplemented
    nothing = torch.full((1, 1), torch.nan, dtype=torch.double)
    assert added(nothing, row, column, beta=0) is NotImplemented, "which is not looked at then"
