"""Errors of broken laws and of memory, and shortening error messages to one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator", "aoti_torch_empty")
"""Found in RuntimeErrors of CUDA, its libraries, the CPU allocator and compiled code."""


class BrokenLaw(AssertionError):
    """A learner broke a law of the contract; the message says which, how far, and the remedy."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or a CPU.

    Also checks the causes of ``error``, since torch's compiler wraps errors of compiled code.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and out_of_memory(cause)


def with_memory_fallback(compute: Callable[[], Result], fallback: Callable[[], Result]) -> Result:
    """``compute()``; where memory runs out, ``fallback()``."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Outside of the except block, where the error no longer holds tensors of the failed attempt.
    return fallback()


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or its repr if there is none; 120 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [repr(error)])[0][:120]
