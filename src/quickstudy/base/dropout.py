"""Dropout in training: the masks of each task come from a seed of its own.

Dropout layers of torch draw from one global generator, so results would depend on how tasks are
distributed over threads, and a resumed run would differ from an uninterrupted one. Here the learner
is replicated for each task, and the layers of the replica draw from a generator with the task's
seed. Each call draws new masks, in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quickstudy.base.errors import BrokenLaw
from quickstudy.base.modules import device_of
from quickstudy.base.replica import Replica

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# Layers that drop channels as a whole, and the number of dimensions after the channels.
_CHANNELS: dict[type[nn.Module], int] = {nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}


def active_dropout(module: nn.Module) -> list[nn.Module]:
    """The dropout layers inside ``module`` that drop something, in its current modes.

    Of the types ``nn.Dropout``, ``Dropout1d``, ``Dropout2d`` and ``Dropout3d``: dropout inside
    other layers, such as attention, cannot be given a generator.
    """
    return [
        part for part in module.modules()
        if (type(part) is nn.Dropout or type(part) in _CHANNELS) and part.training and _p(part) > 0
    ]  # fmt: skip


@contextmanager
def dropout_off(module: nn.Module) -> Iterator[None]:
    """A context in which the active dropout layers of ``module`` drop nothing.

    It changes their modes, so no other thread may use ``module`` meanwhile.
    """
    layers = active_dropout(module)
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def with_dropout(module: AnyModule, seed: int) -> AnyModule:
    """A replica of ``module`` whose active dropout layers draw from a generator with ``seed``.

    It shares all parameters. When code in it is run again in a backward pass, which would draw
    other masks, :class:`quickstudy.testing.BrokenLaw` is raised.
    """
    layers, replica = active_dropout(module), Replica(module)
    generator = torch.Generator(device_of(module)).manual_seed(seed)
    for layer in layers:
        twin: Any = replica.copy_of(layer)
        twin.generator, twin.after_channels = generator, _CHANNELS.get(type(layer))
        twin.__class__ = _SeededDropout
    return replica.module  # type: ignore[return-value]


def _p(layer: Any) -> float:
    return float(layer.p)


class _SeededDropout(nn.Module):
    """y = x * mask / (1 - p), each element of the mask 0 with probability p, otherwise 1.

    ``after_channels``  None for a mask for each element; otherwise one for each channel, which
                        this number of dimensions follows.
    """

    p: float
    generator: torch.Generator
    after_channels: int | None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if torch._C._current_graph_task_id() != -1:
            raise BrokenLaw(
                "dropout: code with dropout is computed again in the backward pass, where other "
                "units would be dropped. Use meta_gradient=Exact() or FirstOrder(), without "
                "recompute=True and without checkpointing, or switch the dropout off: "
                "qs.frozen(module), or p=0."
            )
        shape = x.shape
        if self.after_channels is not None:
            if x.ndim != 2 + self.after_channels:
                raise ValueError(
                    f"dropout: Dropout{self.after_channels}d needs (n, channels, "
                    f"{self.after_channels} more); found shape {tuple(x.shape)}. Use nn.Dropout."
                )
            shape = torch.Size([*x.shape[:2], *[1] * self.after_channels])
        if self.p == 1:
            return x * 0
        drawn = torch.rand(shape, generator=self.generator, device=x.device)
        return x * ((drawn >= self.p).to(x.dtype) / (1 - self.p))
