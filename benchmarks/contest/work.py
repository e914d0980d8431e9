"""What every contender of ``peers.py`` computes: workloads, tasks, network and initial weights.

This file and ``contest.contenders`` need torch alone, so that a peer can be run by an interpreter
that has no quickstudy.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]


class Method(Enum):
    """What is computed for each task."""

    MAML = "MAML"
    FOMAML = "FOMAML"
    PROTOTYPICAL = "Prototypical"
    REPTILE = "Reptile"


@dataclass(frozen=True)
class Workload:
    """One step of meta-training: the gradient of the mean loss of ``tasks`` tasks.

    ``image``     channels and side of the images for a Conv4; None for sinusoids, which a
                  perceptron 40-40 fits: there ``shots`` and ``queries`` are points.
    ``channels``  filters of the Conv4.
    ``steps``     inner steps at ``rate``; 0 for metric learners. A step of Reptile takes the next
                  ``REPTILE_ROWS`` rows of its task, every other step the whole support set.
    """

    name: str
    title: str
    method: Method
    tasks: int
    image: tuple[int, int] | None
    ways: int = 5
    shots: int = 1
    queries: int = 15
    channels: int = 64
    steps: int = 0
    rate: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON, for a worker and for a result."""
        return asdict(self) | {"method": self.method.value}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Workload:
        """The workload that :meth:`to_json` wrote."""
        image = values["image"] and tuple(values["image"])
        return Workload(**(values | {"method": Method(values["method"]), "image": image}))


REPTILE_ROWS = 10  # of an inner step, as in its paper at 5 ways

WORKLOADS = {
    work.name: work
    for work in (
        Workload("maml_28_1_step", "MAML, 1 step, 28x28", Method.MAML, 32, (1, 28),
                 steps=1, rate=0.4),
        Workload("maml_28_5_steps", "MAML, 5 steps, 28x28", Method.MAML, 32, (1, 28),
                 steps=5, rate=0.4),
        Workload("maml_84_5_steps", "MAML, 5 steps, 84x84x3, Conv4-32", Method.MAML, 4, (3, 84),
                 channels=32, steps=5, rate=0.01),
        Workload("fomaml_28_5_steps", "FOMAML, 5 steps, 28x28", Method.FOMAML, 32, (1, 28),
                 steps=5, rate=0.4),
        Workload("fomaml_84_5_steps", "FOMAML, 5 steps, 84x84x3, Conv4-32", Method.FOMAML, 4,
                 (3, 84), channels=32, steps=5, rate=0.01),
        Workload("prototypical_28_5_ways", "Prototypical, 5 ways, 28x28", Method.PROTOTYPICAL, 16,
                 (1, 28), queries=5),
        Workload("prototypical_28_60_ways", "Prototypical, 60 ways, 28x28", Method.PROTOTYPICAL, 4,
                 (1, 28), ways=60, queries=5),
        Workload("prototypical_32_5_ways", "Prototypical, 5 ways, 32x32x3", Method.PROTOTYPICAL,
                 16, (3, 32), queries=5),
        Workload("prototypical_32_60_ways", "Prototypical, 60 ways, 32x32x3", Method.PROTOTYPICAL,
                 4, (3, 32), ways=60, queries=5),
        Workload("sinusoid_maml", "MAML, 1 step, sinusoids, MLP 40-40", Method.MAML, 25, None,
                 ways=1, shots=10, queries=10, steps=1, rate=0.01),
        Workload("reptile_28_5_steps", "Reptile, 5 steps, 28x28", Method.REPTILE, 32, (1, 28),
                 steps=5, rate=0.1),
    )
}  # fmt: skip


class Tasks(NamedTuple):
    """Support and query of all tasks: inputs (tasks, rows, ...) and their targets."""

    support: Tensor
    support_targets: Tensor
    query: Tensor
    query_targets: Tensor

    def each(self) -> Iterator[Tasks]:
        """One task after the other, without the task axis."""
        return (Tasks(*one) for one in zip(*self, strict=True))

    def to(self, dtype: torch.dtype) -> Tasks:
        """With inputs, and real targets, of ``dtype``."""
        return Tasks(*(t.to(dtype) if t.is_floating_point() else t for t in self))

    def on(self, device: torch.device) -> Tasks:
        """On ``device``."""
        return Tasks(*(t.to(device) for t in self))


Contest = Callable[[], Weights]
"""One step: stores the meta-gradient in ``.grad``, and returns it under the network's names."""

Prepare = Callable[[Workload, Weights, Tasks], Contest]
"""A contender: loads weights and tasks, and returns the step. It may raise NotOffered."""


class NotOffered(Exception):
    """A library lacks what the workload needs; the message names what is missing."""


def make_tasks(work: Workload, seed: int = 0) -> Tasks:
    """The tasks of a step, all new: rows alternate between the classes, so row i is of i % ways."""
    noise = torch.Generator().manual_seed(seed)
    support, query = work.ways * work.shots, work.ways * work.queries
    if work.image is None:
        return _sinusoids(work, noise)
    channels, side = work.image
    shape = (work.tasks, support + query, channels, side, side)
    images = torch.rand(shape, generator=noise, dtype=torch.float32)
    ids = [(torch.arange(n) % work.ways).expand(work.tasks, n) for n in (support, query)]
    return Tasks(images[:, :support].clone(), ids[0], images[:, support:].clone(), ids[1])


def _sinusoids(work: Workload, noise: torch.Generator) -> Tasks:
    """Amplitude from U[0.1, 5], phase from U[0, pi], inputs from U[-5, 5]."""
    amplitude, phase = torch.rand(2, work.tasks, 1, 1, generator=noise, dtype=torch.float32)
    shape = (work.tasks, work.shots + work.queries, 1)
    x = torch.rand(shape, generator=noise, dtype=torch.float32) * 10 - 5
    y = (0.1 + 4.9 * amplitude) * torch.sin(x - math.pi * phase)
    n = work.shots
    return Tasks(x[:, :n].clone(), y[:, :n].clone(), x[:, n:].clone(), y[:, n:].clone())


def initial_weights(work: Workload, seed: int = 1) -> Weights:
    """The initial weights of all contenders; an identity as norm could hide a wrong term."""
    noise = torch.Generator().manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=noise, dtype=torch.float32)
        if like.ndim == 1:
            return float(name.endswith("norm.weight")) + 0.1 * values
        return values * math.sqrt(2 / like[0].numel())

    return {name: draw(name, like) for name, like in network(work).named_parameters()}


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, then a linear head.

    The order of the layers is the usual one. Convolutions have no bias, which a batch norm would
    subtract again; so all contenders have the same parameters. Statistics are those of the
    given rows, and none are kept: the examples of the peers do so, or their second order needs it.
    """

    def __init__(self, channels: int, in_channels: int, side: int, outputs: int | None) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * 4
        self.blocks = nn.Sequential(*(self._block(a, b) for a, b in pairwise(widths)))
        features = channels * (side // 16) ** 2
        self.head = nn.Linear(features, outputs) if outputs else nn.Identity()

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        parts = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs, track_running_stats=False),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
        return nn.Sequential(parts)

    def forward(self, images: Tensor) -> Tensor:
        """Predictions (n, outputs), or features."""
        result: Tensor = self.head(self.blocks(images).flatten(1))
        return result


class Perceptron(nn.Module):
    """Numbers (n, 1) -> (n, 1), with two hidden layers of 40."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
        self.head = nn.Linear(40, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions (n, 1)."""
        result: Tensor = self.head(self.layers(inputs))
        return result


def network(work: Workload) -> nn.Module:
    """The network in plain torch, for every peer that accepts any module."""
    if work.image is None:
        return Perceptron()
    outputs = None if work.method is Method.PROTOTYPICAL else work.ways
    return Conv4(work.channels, *work.image, outputs)


def loaded(work: Workload, weights: Weights) -> nn.Module:
    """The network in plain torch, with these weights, in their precision and on their device."""
    net = network(work).to(next(iter(weights.values())))
    net.load_state_dict(weights)
    return net


def loss_of(work: Workload) -> Callable[[Tensor, Tensor], Tensor]:
    """(predictions, targets) -> the mean loss."""
    return F.mse_loss if work.image is None else F.cross_entropy


def gradient_of(module: nn.Module, prefix: str = "") -> Weights:
    """``.grad`` of the parameters, under their names without ``prefix``."""
    return {
        name.removeprefix(prefix): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def only(work: Workload, *methods: Method, library: str) -> None:
    """NotOffered unless the workload is of one of ``methods``."""
    if work.method not in methods:
        raise NotOffered(f"{library} has no {work.method.value}")
