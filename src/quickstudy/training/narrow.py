"""Matrix products with a side of one as elementwise operators, which a compiler fuses.

Networks small enough to be worth compiling have such products (one feature, one output), and the
call of a library for one costs more than its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LARGEST = 1 << 17
"""Numbers in the elementwise product, beyond which a library's own way is as fast."""


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a (..., m, k) @ b (..., k, n), where m, k or n is one; NotImplemented elsewhere."""
    m, k, n = *a.shape[-2:], b.shape[-1]
    # Of shorter types a product would be rounded before it is added.
    known = a.dtype in (torch.float32, torch.float64) and a.dtype == b.dtype
    known = known and a.shape[:-2] == b.shape[:-2]
    if not known or b.shape[-2] != k or 1 not in (m, k, n) or a.numel() * n > _LARGEST:
        return NotImplemented  # type: ignore[no-any-return]
    if k == 1:
        return a * b
    if n == 1:
        return (a * b.mT).sum(-1, keepdim=True)
    return (a.mT * b).sum(-2, keepdim=True)


def _added(c: Tensor, a: Tensor, b: Tensor, *, beta: complex = 1, alpha: complex = 1) -> Tensor:
    """beta * c + alpha * a @ b."""
    product = _product(a, b)
    if product is NotImplemented or beta == 0 or c.dtype != a.dtype:
        return NotImplemented  # type: ignore[no-any-return]
    product = product if alpha == 1 else alpha * product
    return (c if beta == 1 else beta * c) + product


NARROW_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.mm.default: _product,
    torch.ops.aten.bmm.default: _product,
    torch.ops.aten.addmm.default: _added,
    torch.ops.aten.baddbmm.default: _added,
}
"""Decompositions for ``make_fx``."""
