"""Errors of torch turned into errors that say what was given and what to give instead."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quickstudy.base.errors import first_line, out_of_memory
from quickstudy.base.modules import in_torch_func, needs_plain_operators
from quickstudy.base.trees import dtype_and_shape, leaves, named_leaves

_RAW = (
    RuntimeError, IndexError, KeyError, AttributeError, TypeError, NotImplementedError,
    torch.linalg.LinAlgError,
)  # fmt: skip
"""Types of error that torch and Python raise for data that code did not expect; no subclasses."""


@contextmanager
def explaining(module: nn.Module, inputs: Any) -> Iterator[None]:
    """Inside, raw errors become ValueErrors that describe ``inputs`` given to ``module``.

    Errors under transforms of ``torch.func`` stay, since the engine then tries another mapping, and
    so do errors of memory and of types of their own.
    """
    try:
        yield
    except Exception as error:
        hidden = in_torch_func() or needs_plain_operators() or out_of_memory(error)
        if hidden or not is_raw(error):
            raise
        given = ", ".join(f"{n} {dtype_and_shape(x)}".strip() for n, x in named_leaves(inputs))
        raise ValueError(
            f"{type(module).__name__}: cannot compute inputs of {given[:200]}: "
            f"{type(error).__name__}, {first_line(error)}. {_remedy(module, inputs)}"
        ) from error


def is_raw(error: Exception) -> bool:
    """Whether ``error`` comes from torch or Python, not from a check that explains it."""
    if type(error) in _RAW:
        return True
    if type(error) is not ValueError:
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(torch.__file__).parent in Path(last.filename).parents


def _remedy(module: nn.Module, inputs: Any) -> str:
    devices = {str(leaf.device) for leaf in leaves(inputs)}
    own = {str(p.device) for p in module.parameters()}
    if own and devices - own:
        return f"Move them to the learner's device: .to({min(own)!r})."
    if any(not x.is_floating_point() for x in leaves(inputs)):
        return (
            "Integers stay ids, for embeddings; give numbers as reals (.float()) and pixels as "
            "uint8. Otherwise give rows of the shape for which its backbone was built."
        )
    return (
        "Give rows of the shape for which its backbone was built, (n, ...), or look at the code "
        "of the error above."
    )
