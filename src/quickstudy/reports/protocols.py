"""What a learner may let reports see of it; each is one method, and all are optional.

A method that gives None has nothing to show as the learner is set up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.core import Examples, State, TaskSpec


@runtime_checkable
class Embeds(Protocol):
    """Sees inputs as features."""

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """Features (n, d) in which the predictor sees ``inputs`` (n, ...)."""


@runtime_checkable
class Attends(Protocol):
    """Answers by looking at support rows."""

    def attention(self, state: State, inputs: Any) -> Tensor | None:
        """Share (n, support rows) of each support row in each prediction.

        Rows sum to one, or to 0 where no support row is there; rows of weight 0 have share 0.
        """


@runtime_checkable
class TellsUncertainty(Protocol):
    """Says how wrong its real numbers may be."""

    def uncertainty(self, state: State, inputs: Any) -> Tensor | None:
        """Standard deviation (n, d) of the targets around the predictions."""


@runtime_checkable
class StepsInside(Protocol):
    """Adapts in inner steps."""

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State] | None:
        """States from before the first to after the last inner step."""


@runtime_checkable
class LearnsRates(Protocol):
    """Learns its own learning rates."""

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """Learnt learning rates by the name of what they move; empty where none are learnt."""
