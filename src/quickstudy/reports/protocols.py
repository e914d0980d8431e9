"""Optional methods of learners, which reports show where a learner has them.

A method returns None where the learner, with its present settings, has nothing to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.core import Examples, State, TaskSpec


@runtime_checkable
class Embeds(Protocol):
    """Maps inputs to features."""

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """Features (n, d) of ``inputs`` (n, ...), as the predictor uses them."""


@runtime_checkable
class Attends(Protocol):
    """Predicts by attention over support rows."""

    def attention(self, state: State, inputs: Any) -> Tensor | None:
        """Shares (n, support rows) of each support row in each prediction.

        They sum to 1 for each prediction, or to 0 without support rows; rows of weight 0 have 0.
        """


@runtime_checkable
class GivesUncertainty(Protocol):
    """Estimates the error of its real-valued predictions."""

    def uncertainty(self, state: State, inputs: Any) -> Tensor | None:
        """Standard deviation (n, d) of the targets around the predictions."""


@runtime_checkable
class HasInnerSteps(Protocol):
    """Adapts in inner steps."""

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State] | None:
        """The states before the first inner step and after each step."""


@runtime_checkable
class LearnsRates(Protocol):
    """Learns its inner learning rates."""

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """Learnt rates by the name of the parameter that they update; empty without any."""
