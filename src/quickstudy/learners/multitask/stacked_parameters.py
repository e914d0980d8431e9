"""Parameters of many tasks as stacked tensors, whose first axis is the tasks.

A task is a *place*, its row in them: a number, or a tensor () that ``vmap`` may have batched. Then
one gather and one batched product compute the tasks of a whole stack.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import like
from quickstudy.backbones.norms import RunningNorm
from quickstudy.base.memory import free_memory
from quickstudy.base.modules import device_of
from quickstudy.base.replica import call_with
from quickstudy.base.words import count, in_bytes

Place = Tensor | int

_IN_TRAINING = 4
"""Adam keeps a gradient and two running means beside each parameter."""


def row_at(stacked: Tensor, place: Place) -> Tensor:
    """The row of ``stacked`` (tasks, ...) at ``place``.

    By ``embedding``, of which ``vmap`` makes one lookup: of ``index_select`` and ``gather`` it
    makes a copy of all rows for each task, and ``stacked[place]`` reads the number of a tensor,
    which ``torch.func.grad`` inside ``vmap`` does not allow.
    """
    if isinstance(place, int):
        return stacked[place]
    return F.embedding(place, stacked.reshape(len(stacked), -1)).reshape(stacked.shape[1:])


def has_row_per_task(module: nn.Module) -> bool:
    """Whether the first axis of this module's own parameters is the tasks."""
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
        self._outputs, self._zero = tuple(outputs), zero
        widest = max(outputs)
        self.weight = nn.Parameter(torch.empty(len(outputs), features, widest))
        self.bias = nn.Parameter(torch.empty(len(outputs), widest))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial weights: uniform in ±1/√d, as those of ``torch.nn.Linear``, or zeros."""
        bound = 0.0 if self._zero else 1 / math.sqrt(self.weight.shape[1])
        # All tasks at once: building from a file may call torch only so often (files/limits.py).
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        if self.weight.is_meta or min(self._outputs) == self.bias.shape[1]:
            return
        widths = torch.tensor(self._outputs, device=self.bias.device)
        beyond = torch.arange(self.bias.shape[1], device=widths.device) >= widths[:, None]
        self.weight.masked_fill_(beyond[:, None], 0.0)
        self.bias.masked_fill_(beyond, 0.0)

    def forward(self, place: Place, features: Tensor) -> Tensor:
        """Predictions (n, W) for ``features`` (n, d) by the head at ``place``."""
        predictions: Tensor = features @ row_at(self.weight, place) + row_at(self.bias, place)
        return predictions

    def extra_repr(self) -> str:
        """Tasks, features and outputs."""
        return "tasks={}, features={}, outputs={}".format(*self.weight.shape)


class StackedNetworks(nn.Module):
    """As many networks as tasks, all like one network: its parameters (...) as (tasks, ...).

    Each starts as a copy of ``network``, which is not kept: whoever computes with these weights
    gives it again. Parameters of ``network`` that are frozen, and its buffers, are shared by all.

    ``zero``  start at zeros instead, for what is added to the weights of ``network``.

    Raises ValueError for norm="running", whose statistics would be those of one network.
    """

    def __init__(self, network: nn.Module, tasks: int, zero: bool = False) -> None:
        super().__init__()
        if any(isinstance(module, RunningNorm) for module in network.modules()):
            raise ValueError(
                "StackedNetworks: the networks of all tasks share their buffers, but "
                "norm='running' keeps statistics of one network there. Use norm='group'."
            )
        moving = {name: p for name, p in network.named_parameters() if p.requires_grad}
        tell_memory(tasks, moving.values(), device_of(network))
        self.names = tuple(moving)
        for name, parameter in moving.items():
            first = torch.zeros_like(parameter) if zero else parameter.detach()
            copies = first.expand(tasks, *parameter.shape).clone()
            self.register_parameter(_key(name), nn.Parameter(copies))

    def weights(self, place: Place) -> dict[str, Tensor]:
        """The parameters of the network at ``place``, by their names in the network."""
        return {name: row_at(self.stack_of(name), place) for name in self.names}

    def stack_of(self, name: str) -> Tensor:
        """The parameter (tasks, ...) of this name in the network."""
        return self.get_parameter(_key(name))

    def forward(self, place: Place, network: nn.Module, inputs: Any) -> Tensor:
        """``network(inputs)`` with the weights at ``place``."""
        computed: Tensor = call_with(network, self.weights(place), inputs)
        return computed

    def extra_repr(self) -> str:
        """The parameters' shapes."""
        return ", ".join(f"{n}={tuple(p.shape)}" for n, p in self.named_parameters())


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's own name must have no dot


def tell_memory(tasks: int, parameters: Any, device: torch.device) -> None:
    """Say how much memory parameters for each of ``tasks`` take, before any of it is taken.

    Raises ValueError where they do not fit in what is free on ``device``; warns where they do, but
    training them by Adam would not.
    """
    of_one = sum(p.numel() * p.element_size() for p in parameters)
    if device.type == "meta":
        return
    need, free = tasks * of_one, free_memory(device)
    if _IN_TRAINING * need <= free:
        return
    found = (
        f"{count(tasks, 'network')} of {in_bytes(of_one)} take {in_bytes(need)}, and training them "
        f"by Adam {in_bytes(_IN_TRAINING * need)}; found {in_bytes(free)} free on {device}. Share "
        "a trunk (qs.HardSharing), take a smaller backbone, or fewer tasks."
    )
    if need > free:
        raise ValueError(f"tasks: {found}")
    warnings.warn(f"tasks: {found}", stacklevel=5)


def heads_for(
    backbone: nn.Module, features: int, outputs: Sequence[int], zero: bool = False
) -> StackedHeads | None:
    """Heads in the backbone's dtype and on its device; None for no task."""
    return like(backbone, StackedHeads(features, outputs, zero)) if outputs else None
