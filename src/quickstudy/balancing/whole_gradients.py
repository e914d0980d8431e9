"""Balancers that need the tasks' gradients themselves, all in memory, computed by TorchJD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quickstudy.balancing import torch_jd
from quickstudy.balancing.by_name import Table, refuse_unnamed
from quickstudy.balancing.checks import check_positive, check_whole

_PART = "aggregation"
_TINY = 1e-7
"""What TorchJD's ExcessMTL adds to denominators."""


@dataclass(frozen=True)
class ConFIG:
    """The direction with equal cosines to all tasks' gradients (Liu et al., 2024, equation 2).

    Its length is the sum of the gradients' projections onto it.

    Raises ImportError without the extra.
    """

    reads: ClassVar[Literal["gradients"]] = "gradients"

    def __post_init__(self) -> None:
        torch_jd.make("ConFIG", _PART, "ConFIG")

    def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """(p,)."""
        return torch_jd.aggregate(torch_jd.make("ConFIG", _PART, "ConFIG"), gradients)


@dataclass
class GradDrop:
    """Gradient sign dropout (Chen et al., 2020, algorithm 1, lines 10 to 15).

    Each entry of the step sums either the positive or the negative entries of the tasks'
    gradients: the positive with probability (1 + sum_t g_t / sum_t |g_t|) / 2.

    ``seed``  of the draws.

    Raises ImportError without the extra.
    """

    seed: int = 0
    reads: ClassVar[Literal["gradients"]] = "gradients"
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_whole("GradDrop", 0, seed=self.seed)
        torch_jd.make("GradDrop", _PART, "GradDrop")

    def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """(p,)."""
        aggregator = torch_jd.make("GradDrop", _PART, "GradDrop")
        with torch_jd.seeded(self.seed, self._steps, gradients.device):
            combined = torch_jd.aggregate(aggregator, gradients)
        self._steps += 1
        return combined

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._steps = state["steps"]


@dataclass
class ExcessMTL:
    """Weights by how far each task is from its best loss (He et al., 2024, equations 6 to 9).

    The excess risk of a task is estimated by g^2 / sqrt(sum of past g^2), summed over parameters,
    relative to its first value; the weights grow exponentially with it. Tasks whose labels are
    noisy are not weighed up for their loss that stays high.

    ``rate``  of the exponential update.

    The memory is as large as the tasks' gradients.

    Raises ValueError for tasks without names, ImportError without the extra.
    """

    rate: float = 1.0
    reads: ClassVar[Literal["gradients"]] = "gradients"
    _tasks: Table = field(init=False, repr=False, compare=False)
    _squares: dict[str, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_positive("ExcessMTL", rate=self.rate)
        torch_jd.make("ExcessMTL", _PART, "ExcessMTLWeighting", self.rate)
        self._tasks = Table({"weight": 1.0, "first": 0.0})

    def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """(p,)."""
        refuse_unnamed("ExcessMTL", names)
        weighting = torch_jd.make("ExcessMTL", _PART, "ExcessMTLWeighting", self.rate)
        before = self._tasks.get("weight", names)
        first = self._tasks.get("first", names)
        weighting._ensure_state(gradients)
        weighting._sq_grad_sum = torch.stack([
            self._squares.get(name, torch.zeros_like(row))
            for name, row in zip(names, gradients, strict=True)
        ])  # fmt: skip
        weighting._weights = (before / before.sum()).to(gradients)
        # TorchJD divides by first + 1e-7 from the second time on. In its first step a task's
        # excess is not divided.
        divisor = torch.where(first > 0, first, 1 - _TINY)
        weighting._initial_w = divisor.to(gradients)
        weights = torch_jd.aggregate(weighting, gradients)
        squares = weighting._sq_grad_sum
        excess = (gradients.square() / (squares + _TINY).sqrt()).sum(1)
        self._tasks.set("first", names, torch.where(first > 0, first, excess.cpu().double()))
        self._tasks.set("weight", names, weights.cpu().double() * before.sum())
        self._squares |= dict(zip(names, squares.unbind(), strict=True))
        return weights @ gradients

    def state_dict(self) -> dict[str, Any]:
        """Weights, first excess and summed squares by name."""
        return {"tasks": self._tasks.state_dict(), "squares": dict(self._squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._tasks.load_state_dict(state["tasks"])
        self._squares = dict(state["squares"])
