"""Perceptrons of one shape with stacked weights: experts, and the columns of stitched networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Perceptrons(nn.Module):
    """Perceptrons of one shape, with a ReLU after every layer, all computed at once.

        h_0 = inputs;    h_l = relu(h_(l-1) weights_l + offsets_l)

    ``stack``  sizes of the leading axes of the weights: (experts,) or (tasks, experts).
    ``sizes``  the width of the inputs, and that of each layer.

    First weights are uniform within 1 / sqrt(inputs), as those of torch's linear layers.
    """

    def __init__(self, stack: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights, self.offsets = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(sizes):
            self.weights.append(uniform(a, *stack, a, b))
            self.offsets.append(uniform(a, *stack, b))

    def forward(self, inputs: Tensor, place: Tensor | int | None = None) -> Tensor:
        """(n, d), the same for all, or (n, *stack, d), one each, -> (n, *stack, width).

        ``place``  (): the index on the first axis of the stack, to compute these perceptrons
                   alone; ``inputs`` and the result then lack this axis.
        """
        x = inputs
        for weight, offset in zip(self.weights, self.offsets, strict=True):
            if place is not None:
                weight, offset = weight[place], offset[place]
            x = layer(x, weight, offset).relu()
        return x

    def layers(self) -> list[Callable[[Tensor], Tensor]]:
        """The layers one by one: each maps (n, d) or (n, *stack, d) -> (n, *stack, h)."""

        def one(weight: Tensor, offset: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: layer(x, weight, offset).relu()

        return [one(*pair) for pair in zip(self.weights, self.offsets, strict=True)]


def layer(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """x weight + offset: (n, d) or (n, *stack, d), with (*stack, d, h), -> (n, *stack, h)."""
    if x.ndim == 2:
        return torch.einsum("nd,...dh->n...h", x, weight) + offset
    return torch.einsum("n...d,...dh->n...h", x, weight) + offset


def uniform(inputs: int, *shape: int) -> nn.Parameter:
    """A parameter drawn uniformly within 1 / sqrt(inputs)."""
    bound = max(inputs, 1) ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def checked_widths(who: str, name: str, widths: Sequence[int], fewest: int = 1) -> tuple[int, ...]:
    """The argument ``name``, widths of layers, as a tuple.

    ValueError, prefixed by ``who``, for less than ``fewest`` layers, and for one without a unit.
    """
    found = None if isinstance(widths, int) else tuple(widths)
    if found is None or len(found) < fewest or min(found, default=1) < 1:
        raise ValueError(
            f"{who}: {name} must give the width of each layer, at least 1, of {fewest} layers or "
            f"more; found {widths}. Use {name}=(64,)."
        )
    return found
