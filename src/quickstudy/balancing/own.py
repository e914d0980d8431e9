"""Balancers of our own: equal, constant and uncertainty weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quickstudy.balancing.by_name import Learned, refuse_unnamed
from quickstudy.balancing.checks import check_positive
from quickstudy.base.shown import shown
from quickstudy.base.words import first_few
from quickstudy.core import Answer


@dataclass(frozen=True)
class Equal:
    """Every task counts the same, however often it was drawn: L = mean_t L_t.

    ``qs.fit`` by default averages the drawn *tasks*, so that a name that is drawn twice as often
    counts twice; without names both are the same.

    >>> import torch
    >>> Equal().weights(torch.tensor([3.0, 1.0]), ["a", "b"])
    tensor([0.5000, 0.5000])
    """

    reads: ClassVar[Literal["losses"]] = "losses"

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """1 / tasks for each (tasks,)."""
        return torch.full_like(losses, 1 / len(losses))


@dataclass(frozen=True)
class Constant:
    """Fixed weights by name: L = sum_t w_t L_t / sum_t w_t, over the tasks of the step.

    ``by_name``  a positive number, or 0, for each name; only their ratios matter.

    Weights that were tuned on validation tasks are the baseline for every other balancer: Kurin et
    al. (2022, In Defense of the Unitary Scalarization for Deep Multi-Task Learning) and Xin et al.
    (2022, Do Current Multi-Task Optimization Methods in Deep Learning Even Help?) found no other
    that was better.

    Raises ValueError for weights that are negative, not finite or all 0, and, in training, for a
    name without one.

    >>> import torch
    >>> Constant({"a": 3, "b": 1}).weights(torch.tensor([3.0, 1.0]), ["a", "b"])
    tensor([0.7500, 0.2500])
    """

    by_name: Mapping[str, float]
    reads: ClassVar[Literal["losses"]] = "losses"

    def __post_init__(self) -> None:
        numbers = list(self.by_name.values()) if isinstance(self.by_name, Mapping) else [None]
        right = all(isinstance(w, int | float) and 0 <= w < float("inf") for w in numbers)
        if not right or not any(numbers):
            raise ValueError(
                "Constant: needs a finite weight of 0 or more for each name, and one above 0; "
                f"found {shown(self.by_name)}. Give {{'name': 1.0, ...}}."
            )
        object.__setattr__(self, "by_name", dict(self.by_name))

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """w_t / sum_t w_t (tasks,); zeros in a step whose tasks all have weight 0."""
        missing = [name or "a task without a name" for name in names if name not in self.by_name]
        if missing:
            raise ValueError(
                f"Constant: needs a weight for each task; found none for {first_few(missing)}. "
                f"Those given are for {first_few(list(self.by_name))}."
            )
        given = losses.new_tensor([float(self.by_name[name]) for name in names])
        return given / given.sum().clamp(min=torch.finfo(given.dtype).tiny)


@dataclass
class Uncertainty:
    """Weights by the noise of each task, which is learnt (Kendall, Gal and Cipolla, 2018).

    The negative log-likelihood of all targets is minimised by the network and the noise sigma_t of
    each task at once:

        sum_t L_t / (2 sigma_t^2) + log sigma_t     where L_t is a squared error: a Gaussian's
                                                    (equation 7)
        sum_t L_t / sigma_t^2 + log sigma_t         elsewhere: L_t is a cross-entropy, of the
                                                    softmax of predictions / sigma_t^2 (equation 10)

    The task's answer decides which: ``qs.regression`` has the first form.
    As in the paper, s_t = log sigma_t^2 is learnt, and starts at 0.

    ``rate``  of Adam on s_t; ours, since the paper trains s_t with the network's optimiser.

    Differs from the paper in the separate optimiser, whose rate follows no schedule, and in that
    the s_t of a task that is absent from a step stays as it is.

    Raises ValueError for tasks without names.

    >>> import torch
    >>> Uncertainty().weights(torch.tensor([3.0, 1.0]), ["a", "b"])
    tensor([1., 1.])
    """

    rate: float = 0.01
    reads: ClassVar[Literal["losses"]] = "losses"
    _noise: Learned = field(init=False, repr=False, compare=False)
    _squared: dict[str, bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("Uncertainty", rate=self.rate)
        self._noise, self._squared = Learned(self.rate), {}

    def read_answers(self, answers: Mapping[str, Answer]) -> None:
        """Learn which tasks have a squared error."""
        for name, answer in answers.items():
            self._squared[name] = bool(getattr(answer, "squared_error", False))

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """1 / (2 sigma_t^2) or 1 / sigma_t^2 (tasks,); then one step for the s_t."""
        refuse_unnamed("Uncertainty", names)
        forms = [0.5 if self._squared.get(name) else 1.0 for name in names]
        factor = torch.tensor(forms, dtype=torch.float64)
        weights = factor * (-self._noise.get(names)).exp()
        # d/ds of factor exp(-s) L + s / 2
        self._noise.descend(names, 0.5 - weights * losses.detach().to("cpu", torch.float64))
        return weights.to(losses)

    def state_dict(self) -> dict[str, Any]:
        """The s_t by name."""
        return {"noise": self._noise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._noise.load_state_dict(state["noise"])
