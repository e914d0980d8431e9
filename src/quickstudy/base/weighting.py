"""How often each row of a forward pass counts: what layers that look across rows must know.

Such layers (batch statistics) see only their input. The weights of its rows, and the promise that
all of them are one, travel beside it in context variables, so a backbone needs no extra argument.
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
    """Inside, statistics over rows count each row as often as ``weights`` (n,) says."""
    with _set(_weights, None if _uniform.get() else weights):
        yield


@contextmanager
def counting_exactly(weights: Tensor) -> Iterator[None]:
    """Like :func:`counting`, for weights that a learner makes itself.

    The promise of :func:`uniform_weights` is about the weights that a stack of tasks came with, and
    knows nothing of these.
    """
    with _set(_uniform, False), _set(_weights, weights):
        yield


@contextmanager
def uniform_weights() -> Iterator[None]:
    """A promise: all rows of the tasks at hand have weight one, and all their targets are known.

    It includes that every class asked of the queries stands in the support set. Statistics and
    losses may then be plain means, which native kernels compute.
    """
    with _set(_uniform, True), _set(_weights, None):
        yield


def weights_are_uniform() -> bool:
    """Whether :func:`uniform_weights` has been promised."""
    return _uniform.get()


def current_weights() -> Tensor | None:
    """(n,) weights of the rows of this forward pass; None where all count once."""
    return _weights.get()
