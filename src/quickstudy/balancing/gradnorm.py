"""GradNorm: weights that give the tasks gradients of balanced norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quickstudy.balancing.by_name import Learned, Table, refuse_unnamed
from quickstudy.balancing.checks import check_not_negative, check_positive


@dataclass
class GradNorm:
    """Weights w_t so that tasks which learn more slowly have larger gradients (Chen et al., 2018).

    The gradient of a step is that of sum_t w_t L_t, for heads too. Then, with the norms
    G_t = w_t |grad L_t| by the shared parameters, their mean G over the tasks of the step, and how
    slowly each task learns, r_t = (L_t / L_t(0)) / mean_u (L_u / L_u(0)),

        w_t  descends on  sum_t |G_t - G r_t^alpha|,  with G r_t^alpha held constant (equation 2),

    and the weights are scaled back to their sum, so that the mean weight of all tasks is 1
    (algorithm 1).

    ``alpha``  0 makes all norms equal; the paper takes 1.5 for tasks that differ much (section 5).
    ``rate``   of Adam on the weights.

    Differs from the paper in that the norms are by all shared parameters, where the paper takes
    the last shared layer to save time; and in that the weights of tasks that are absent from a step
    stay as they are, those of the others keep their sum. L_t(0) is the loss of the first step in
    which the task occurs. Weights stay above 1e-3, so that none becomes negative.

    Raises ValueError for tasks without names, and, in training, for a first loss that is not
    above 0.

    >>> import torch
    >>> balancer = GradNorm()
    >>> gramian, losses = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([1.0, 1.0])
    >>> balancer.gradient_weights(gramian, losses, ["a", "b"])
    tensor([1., 1.])
    >>> balancer.gradient_weights(gramian, losses, ["a", "b"])  # a's gradient is twice b's
    tensor([0.9750, 1.0250])
    """

    alpha: float = 1.5
    rate: float = 0.025
    reads: ClassVar[Literal["gramian"]] = "gramian"
    weighs_all: ClassVar[bool] = True
    _weights: Learned = field(init=False, repr=False, compare=False)
    _first: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_not_negative("GradNorm", alpha=self.alpha)
        check_positive("GradNorm", rate=self.rate)
        self._weights = Learned(self.rate, first=1.0)
        self._first = Table({"loss": 0.0})

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of this step; then one step for them."""
        refuse_unnamed("GradNorm", names)
        weights = self._weights.get(names)
        norms = gramian.diagonal().detach().to("cpu", torch.float64).clamp(min=0).sqrt()
        now = losses.detach().to("cpu", torch.float64)
        first = self._first.get("loss", names)
        first = torch.where(first == 0, now, first)
        if not bool((first > 0).all()):
            place = int((first <= 0).nonzero()[0])
            raise ValueError(
                f"GradNorm: compares losses with their first values, which must be above 0; found "
                f"{float(first[place]):g} for {names[place]!r}. Use a loss that is not negative, "
                "or another balancer."
            )
        self._first.set("loss", names, first)
        slow = now / first
        target = (weights * norms).mean() * (slow / slow.mean().clamp(min=1e-12)) ** self.alpha
        self._weights.descend(names, (weights * norms - target).sign() * norms)
        stepped = self._weights.get(names).clamp(min=1e-3)
        self._weights.set(names, stepped * weights.sum() / stepped.sum())
        return weights.to(losses)

    def state_dict(self) -> dict[str, Any]:
        """Weights and first losses by name."""
        return {"weights": self._weights.state_dict(), "first": self._first.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._weights.load_state_dict(state["weights"])
        self._first.load_state_dict(state["first"])
