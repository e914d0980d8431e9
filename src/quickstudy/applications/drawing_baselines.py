"""What completions are compared with: the nearest given pixel, and the mean of all drawings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.reals import Reals
from quickstudy.core import Examples, Learner, State, TaskSpec


class NearestPixel(Learner):
    """Maps a support set of places to a function: the target of the nearest place that is given."""

    answers = (Reals,)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The rows themselves."""
        return {"places": support.inputs, "targets": support.targets, "weights": support.weights}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """(n, outputs): targets of support rows."""
        squares = (inputs.unsqueeze(1) - state["places"]).square().sum(-1)
        squares = squares.where(state["weights"] > 0, torch.inf)
        targets: Tensor = state["targets"]
        return targets[squares.argmin(1)]


class MeanDrawing(Learner):
    """Maps any support set to the mean ink of the training drawings at each place.

    ``mean``  (side, side), the mean drawing.
    """

    answers = (Reals,)

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Nothing is learnt."""
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """(n, 1)"""
        mean: Tensor = self.get_buffer("mean")
        cells = ((inputs + 1) / 2 * len(mean)).long().clamp(0, len(mean) - 1)
        return mean[cells[:, 0], cells[:, 1]].unsqueeze(-1)
