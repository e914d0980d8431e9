"""Classify out-of-memory errors, and quote errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator", "aoti_torch_empty")
"""Words of RuntimeErrors without a type: CUDA's, its libraries', a CPU's, compiled code's."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: that of a GPU, of Python, or of torch on a CPU.

    Also where another error hides it, as torch's compiler does that of the code it made.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY):
        return True
    hidden = error.__cause__ or error.__context__
    return hidden is not None and out_of_memory(hidden)


def where_it_fits(compute: Callable[[], Result], otherwise: Callable[[], Result]) -> Result:
    """``compute()``; where memory runs out, ``otherwise()``, with nothing held of the attempt."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    return otherwise()


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [repr(error)])[0][:120]
