"""Limits on what a file may ask for, checked before anything is built.

What a file describes must be in proportion to the tensors that it holds: a description of a few
bytes could ask for a billion layers, or for steps that take years.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quickstudy.base.trees import named_leaves

LARGEST_COUNT = 10_000
"""The largest whole number in a description, unless a tensor beside it has so long an axis."""

LARGEST_NUMBER = 1e12
"""The largest size of other numbers. Beyond it, products with features overflow in float32."""

_CALLS, _CALLS_PER_TENSOR = 1_000, 50
"""Calls of torch for building: learners here need 3 to 14 for each of their tensors."""


def check_numbers(description: Any, tensors: Iterable[Tensor]) -> None:
    """ValueError for a number that is not finite, or out of proportion to ``tensors``.

    ``description``  any JSON: of a learner, or of an answer.
    """
    largest = max(LARGEST_COUNT, longest_axis(tensors))
    for name, value in named_leaves(description):
        number: Any = value  # a JSON scalar instead of a tensor
        if isinstance(number, float) and not abs(number) <= LARGEST_NUMBER:
            raise ValueError(
                f"{name} must be finite, and at most {LARGEST_NUMBER:g} in size; found {number}"
            )
        if isinstance(number, int) and abs(number) > largest:
            raise ValueError(
                f"{name} must be at most {largest}, since no tensor beside it is larger; found "
                f"{_digits(number)}"
            )


def longest_axis(tensors: Iterable[Tensor]) -> int:
    """The longest axis of the tensors that hold a number; 0 if there are none.

    Raises ValueError for an empty tensor with an axis above :data:`LARGEST_COUNT`: it costs a file
    nothing.
    """
    longest = 0
    for tensor in tensors:
        axis = max(tensor.shape, default=0)
        if tensor.numel():
            longest = max(longest, axis)
        elif axis > LARGEST_COUNT:
            raise ValueError(f"an empty tensor has the shape {tuple(tensor.shape)}")
    return longest


class BoundedCalls(TorchFunctionMode):
    """Inside, ValueError once torch has been called too often for a module of so many tensors.

    Every layer calls torch to make its tensors, so this bounds layers without knowing their kinds.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.left = _CALLS + _CALLS_PER_TENSOR * tensors

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """``function(*args, **kwargs)``, counted."""
        if function is torch._C._set_grad_enabled:
            # The end of a no_grad block calls it: refused there, gradients would stay off.
            return function(*args, **(kwargs or {}))
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it asks for more layers than its {self.tensors} tensors belong to")
        return function(*args, **(kwargs or {}))


def _digits(number: int) -> str:
    bits = number.bit_length()  # Python refuses to print thousands of digits
    return str(number) if bits < 100 else f"a number of {bits} bits"
