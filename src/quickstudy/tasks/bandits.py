"""Multi-armed bandits: the simplest reinforcement learning tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.actions import Actions
from quickstudy.core import Acting, Task, TaskSpec


@dataclass(frozen=True)
class Bandit:
    """``arms`` arms, each of which pays 1 with its own probability; one pull is one episode.

    Nothing is observed: inputs are ones (n, 1).
    """

    arms: int

    @property
    def actions(self) -> int:
        """The number of arms."""
        return self.arms

    @property
    def horizon(self) -> int:
        """One pull."""
        return 1

    def begin(self, parameters: Any, episodes: int) -> tuple[Tensor, Tensor]:
        """A dummy state, and observations of ones (episodes, 1)."""
        ones = parameters["pays"].new_ones(episodes, 1)
        return ones, ones

    def step(
        self, parameters: Any, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pull the arm ``action`` (episodes,) in each episode, which ends it."""
        probability = parameters["pays"].gather(-1, action)
        return state, state, (noise < probability).to(noise.dtype), torch.ones_like(noise)


@dataclass(frozen=True)
class Bandits:
    """A source of bandits: in each task one random arm pays more often than the others.

    ``arms``     number of arms.
    ``pulls``    number of pulls in the support set, made by the learner's prior.
    ``queries``  number of pulls after adapting.
    ``best``, ``others``  the probabilities that arms pay; ``best`` is the optimal return.

    Raises ValueError for fewer than 2 arms or 1 pull, and unless 0 <= others < best <= 1.
    """

    arms: int = 5
    pulls: int = 20
    queries: int = 50
    best: float = 0.9
    others: float = 0.1

    def __post_init__(self) -> None:
        if self.arms < 2 or self.pulls < 1 or self.queries < 1:
            raise ValueError(
                "Bandits: needs at least 2 arms, 1 pull and 1 query; found "
                f"arms={self.arms}, pulls={self.pulls}, queries={self.queries}."
            )
        if not 0 <= self.others < self.best <= 1:
            raise ValueError(
                "Bandits: needs probabilities 0 <= others < best <= 1; found "
                f"others={self.others}, best={self.best}."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """One task."""
        pays = torch.full((self.arms,), self.others)
        pays[torch.randint(self.arms, (), generator=generator)] = self.best
        support, query = (
            Acting({"pays": pays}, self._noise(n, generator)) for n in (self.pulls, self.queries)
        )
        return Task(support, query, TaskSpec(Actions(Bandit(self.arms))))

    def _noise(self, pulls: int, generator: torch.Generator) -> dict[str, Tensor]:
        choice = torch.rand(pulls, 1, self.arms, generator=generator)
        tiny = torch.finfo(choice.dtype).tiny
        return {
            "choice": choice.clamp_min(tiny),
            "world": torch.rand(pulls, 1, generator=generator),
        }
