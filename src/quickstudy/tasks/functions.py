"""Regression tasks with known answers: one function per task."""

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
    """y = amplitude * sin(x - phase): the regression family of MAML's paper.

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
        """One function, seen at ``shots`` points and asked at ``queries`` others."""
        return unstack(self.stacked([generator]))[0]

    def stacked(self, generators: Sequence[torch.Generator]) -> Task:
        """The tasks that ``generators`` give, stacked."""
        rows = self.shots + self.queries
        drawn = [(*self.parameters(g), torch.rand(rows, 1, generator=g)) for g in generators]
        amplitude, phase, points = (torch.stack(part) for part in zip(*drawn, strict=True))
        x = points * 10 - 5
        # One operator for each task, as if it were alone: what comes before and after is rounded
        # alike wherever a number stands, but nobody promises so for the last bit of a sine.
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
