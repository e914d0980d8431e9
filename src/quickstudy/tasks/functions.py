"""Regression tasks: one function per task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.answers.specs import regression
from quickstudy.core import Examples, Task
from quickstudy.tasks.stacks import unstack


@dataclass(frozen=True)
class Sinusoids:
    """y = amplitude * sin(x - phase): the regression tasks of MAML's paper.

    A task draws amplitude from U[0.1, 5] and phase from U[0, pi], and ``shots`` support and
    ``queries`` query points with x from U[-5, 5]; inputs and targets have shape (n, 1).

    Reference: Finn, Abbeel and Levine (2017), Model-Agnostic Meta-Learning, section 5.1.
    """

    shots: int = 10
    queries: int = 100

    def __post_init__(self) -> None:
        if self.shots < 1 or self.queries < 1:
            raise ValueError(
                "Sinusoids: needs at least 1 shot and 1 query; "
                f"found shots={self.shots}, queries={self.queries}."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """One task."""
        return unstack(self.stacked([generator]))[0]

    def stacked(self, generators: Sequence[torch.Generator]) -> Task:
        """One stack of the tasks of ``generators``."""
        rows = self.shots + self.queries
        drawn = [(*self.parameters(g), torch.rand(rows, 1, generator=g)) for g in generators]
        amplitude, phase, points = (torch.stack(part) for part in zip(*drawn, strict=True))
        x = points * 10 - 5
        # One call of sin per task, for results equal to the bit to those of single tasks: unlike
        # other operators, a vectorised sine may round differently by position in the tensor.
        angles = zip(x.unbind(), phase.unbind(), strict=True)
        y = amplitude[:, None, None] * torch.stack([torch.sin(x - phase) for x, phase in angles])
        weights = torch.ones(x.shape[:2])
        groups = torch.zeros(x.shape[:2], dtype=torch.long)
        support, query = (
            Examples(*(leaf[:, part].contiguous() for leaf in (x, y, weights, groups)))
            for part in (slice(self.shots), slice(self.shots, rows))
        )
        return Task(support, query, regression())

    def parameters(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Amplitude and phase of the task that this generator state gives."""
        amplitude, phase = torch.rand(2, generator=generator).unbind()
        return 0.1 + 4.9 * amplitude, math.pi * phase
