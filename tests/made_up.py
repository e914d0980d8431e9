"""Small artificial data for tests."""

from __future__ import annotations

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.core import Examples
from quickstudy.tasks.examples import one_place


def examples_of(inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Examples:
    """Examples of the given tensors; ``qs.examples`` would convert them to the default type."""
    if weights is None:
        weights = torch.ones(len(inputs), dtype=inputs.dtype)
    return Examples(inputs, targets, weights, one_place(weights))


def random_classes(classes: int = 8, rows: int = 10, side: int = 16) -> qs.LabelledRows:
    """Noisy copies of one random image per class, which can be learnt."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(classes, 1, 1, side, side, generator=generator)
    noise = torch.rand(classes, rows, 1, side, side, generator=generator)
    pixels = ((0.6 * centres + 0.4 * noise) * 255).to(torch.uint8).flatten(0, 1)
    names = tuple(f"class {i}" for i in range(classes))
    return qs.LabelledRows(pixels, torch.full((classes,), rows), names)
