"""Regression tasks with known answers: one function per task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Task
from quickstudy.tasks.examples import examples, regression


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
        amplitude, phase = self.parameters(generator)
        x = torch.rand(self.shots + self.queries, 1, generator=generator) * 10 - 5
        y = amplitude * torch.sin(x - phase)
        return Task(
            examples(x[: self.shots], y[: self.shots]),
            examples(x[self.shots :], y[self.shots :]),
            regression(),
        )

    def parameters(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Amplitude and phase of the task that this generator state gives."""
        amplitude, phase = torch.rand(2, generator=generator)
        return 0.1 + 4.9 * amplitude, math.pi * phase
