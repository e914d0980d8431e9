"""Parameters of many tasks as stacked tensors, whose first axis is the tasks.

A task is a *place*, its row in them: a number, or a tensor () that ``vmap`` may have batched. Then
one gather and one batched product compute the tasks of a whole stack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import like
from quickstudy.base.replica import call_with


def has_row_per_task(module: nn.Module) -> bool:
    """Whether the first axis of this module's parameters is the tasks."""
    return isinstance(module, StackedHeads | StackedNetworks)


class StackedHeads(nn.Module):
    """Linear heads of many tasks: ``weight`` (tasks, d, W) and ``bias`` (tasks, W).

        predictions = features @ weight[place] + bias[place]

    ``outputs``  the width of each task's head; W is the largest. Columns beyond a task's own width
                 are zeros, and no loss reads them.
    ``zero``     start with heads of zeros instead of those of ``torch.nn.Linear``.
    """

    def __init__(self, features: int, outputs: Sequence[int], zero: bool = False) -> None:
        super().__init__()
        widest = max(outputs)
        bound = 0.0 if zero else 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(len(outputs), features, widest))
        self.bias = nn.Parameter(torch.empty(len(outputs), widest))
        own = torch.arange(widest) < torch.tensor(list(outputs)).unsqueeze(-1)  # (tasks, W)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound).mul_(own.unsqueeze(1))
            self.bias.uniform_(-bound, bound).mul_(own)

    def forward(self, place: Tensor | int, features: Tensor) -> Tensor:
        """Predictions (n, W) for ``features`` (n, d) by the head at ``place``."""
        predictions: Tensor = features @ self.weight[place] + self.bias[place]
        return predictions

    def extra_repr(self) -> str:
        """Tasks, features and outputs."""
        return "tasks={}, features={}, outputs={}".format(*self.weight.shape)


class StackedNetworks(nn.Module):
    """As many networks as tasks, all like one network: its parameters (...) as (tasks, ...).

    Each starts as a copy of ``network``, which is not kept: whoever computes with these weights
    gives it again. Buffers are shared by all.
    """

    def __init__(self, network: nn.Module, tasks: int) -> None:
        super().__init__()
        self.names = tuple(name for name, _ in network.named_parameters())
        for name, parameter in network.named_parameters():
            copies = parameter.detach().expand(tasks, *parameter.shape).clone()
            self.register_parameter(_key(name), nn.Parameter(copies))

    def weights(self, place: Tensor | int) -> dict[str, Tensor]:
        """The parameters of the network at ``place``, by their names in the network."""
        return {name: self._parameters[_key(name)][place] for name in self.names}  # type: ignore[index]

    def forward(self, place: Tensor | int, network: nn.Module, inputs: Any) -> Tensor:
        """``network(inputs)`` with the weights at ``place``."""
        computed: Tensor = call_with(network, self.weights(place), inputs)
        return computed

    def extra_repr(self) -> str:
        """The parameters' shapes."""
        return ", ".join(f"{n}={tuple(p.shape)}" for n, p in self.named_parameters())


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's own name must have no dot


def heads_for(backbone: nn.Module, features: int, outputs: Sequence[int]) -> StackedHeads | None:
    """Heads in the backbone's dtype and on its device; None for no task."""
    return like(backbone, StackedHeads(features, outputs)) if outputs else None
