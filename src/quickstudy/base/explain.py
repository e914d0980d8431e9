"""Errors of torch turned into errors that say what was given and what to give instead."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.base.errors import first_line, out_of_memory
from quickstudy.base.modules import in_torch_func, needs_plain_operators
from quickstudy.base.trees import dtype_and_shape, leaves, named_leaves

_RAW = (
    RuntimeError, IndexError, KeyError, AttributeError, TypeError, NotImplementedError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
)  # fmt: skip
"""Types of error that torch and Python raise for data that code did not expect; no subclasses."""


@contextmanager
def explaining(who: nn.Module | str, inputs: Any) -> Iterator[None]:
    """Inside, raw errors become ValueErrors that describe ``inputs``, given to ``who``.

    Errors under transforms of ``torch.func`` stay, since the engine then tries another mapping, and
    so do errors of memory and of types of their own.
    """
    try:
        yield
    except Exception as error:
        hidden = in_torch_func() or needs_plain_operators() or out_of_memory(error)
        if hidden or not is_raw(error):
            raise
        name = who if isinstance(who, str) else type(who).__name__
        given = ", ".join(f"{n} {dtype_and_shape(x)}".strip() for n, x in named_leaves(inputs))
        raise ValueError(
            f"{name}: cannot compute with {given[:200]} ({type(error).__name__}: "
            f"{first_line(error)}). {_remedy(who, inputs)}"
        ) from error


def is_raw(error: Exception) -> bool:
    """Whether ``error`` comes from torch or Python, not from a check that explains it."""
    if type(error) in _RAW:
        return True
    if type(error) is not ValueError:
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(torch.__file__).parent in Path(last.filename).parents


def _remedy(who: nn.Module | str, inputs: Any) -> str:
    if isinstance(who, str):
        return "Change the function, or the targets, so that they fit one another."
    tensors = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor)]
    devices, own = {str(leaf.device) for leaf in tensors}, {str(p.device) for p in who.parameters()}
    if own and devices - own:
        return f"Move them to the learner's device: .to({min(own)!r})."
    if not all(leaf.is_floating_point() for leaf in tensors):
        return (
            "Integers stay ids, for embeddings: give numbers as reals (.float()) and pixels as "
            "uint8. Otherwise give rows of the shape for which its backbone was built."
        )
    return (
        "Give rows (n, ...) of the shape for which its backbone was built, and a spec that it can "
        "answer; the error above says where it failed."
    )
