"""Row weights for layers that compute statistics over rows (batch norms).

Such layers get only their input. Context variables pass them the weights of its rows, or the
promise that all weights are 1, so that a backbone's ``forward`` needs no extra argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")

_weights: ContextVar[Tensor | None] = ContextVar("quickstudy_row_weights", default=None)
_uniform: ContextVar[bool] = ContextVar("quickstudy_uniform_weights", default=False)


@contextmanager
def _set(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def counting(weights: Tensor) -> Iterator[None]:
    """Inside, batch statistics count each row by its entry of ``weights`` (n,)."""
    with _set(_weights, None if _uniform.get() else weights):
        yield


@contextmanager
def counting_exactly(weights: Tensor) -> Iterator[None]:
    """Like :func:`counting`, for weights that a learner computes itself.

    Overrides :func:`uniform_weights`, which holds only for the weights of the tasks' own rows.
    """
    with _set(_uniform, False), _set(_weights, weights):
        yield


@contextmanager
def uniform_weights() -> Iterator[None]:
    """Promise that all rows of the current tasks have weight 1 and known targets.

    Also that every class of the queries occurs in the support set. Statistics and losses may then
    be plain means, for which torch has faster kernels.
    """
    with _set(_uniform, True), _set(_weights, None):
        yield


def weights_are_uniform() -> bool:
    """Whether this code runs inside :func:`uniform_weights`."""
    return _uniform.get()


def current_weights() -> Tensor | None:
    """(n,): the row weights of the current forward pass; None where all are 1."""
    return _weights.get()
