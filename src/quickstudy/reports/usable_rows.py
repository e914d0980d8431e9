"""Which rows of a task reports show, and their tensors as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.words import count
from quickstudy.core import Answer, Examples
from quickstudy.reports.view_types import Array
from quickstudy.tasks.examples import counted_weights


def usable_rows(rows: Examples, answer: Answer) -> Array:
    """(n,): whether each row has a weight and a known target; ValueError where none has."""
    kept = to_numpy(counted_weights(rows, answer) > 0)
    if not kept.any():
        raise ValueError(
            f"view: none of {count(len(kept), 'row')} has both a weight and a known target, so "
            "there is nothing to show. Give a task with labelled rows."
        )
    return kept


def as_images(*inputs: Any) -> tuple[Tensor | None, ...]:
    """Inputs as images in [0, 1] on one common scale; None for each where they are not images."""
    if not all(isinstance(i, Tensor) and _is_image(i) for i in inputs):
        return tuple(None for _ in inputs)
    images = [i / 255 if i.dtype == torch.uint8 else i.float().nan_to_num() for i in inputs]
    low = min(float(i.min()) for i in images)
    high = max(float(i.max()) for i in images)
    if low < 0 or high > 1:  # standardised pixels
        images = [(i - low) / max(high - low, 1e-12) for i in images]
    return tuple(images)


def _is_image(inputs: Tensor) -> bool:
    """(n, channels, height, width): grey, grey and alpha, RGB, or RGBA."""
    return inputs.ndim == 4 and 1 <= inputs.shape[1] <= 4


def as_numbers(inputs: Any) -> Tensor | None:
    """Inputs (n, 1) or (n,) as (n,); None where a row is more than one number."""
    if isinstance(inputs, Tensor) and inputs.numel() == len(inputs):
        return inputs.reshape(-1)
    return None


def pick(values: Tensor | None, kept: Array) -> Array | None:
    """The ``kept`` rows of ``values``, where there are values."""
    return None if values is None else to_numpy(values)[kept]


def to_numpy(values: Tensor) -> Array:
    """A tensor on any device as an array, low-precision floats as float32 ones."""
    values = values.detach().cpu()
    return np.asarray(values.float().numpy() if values.is_floating_point() else values.numpy())
