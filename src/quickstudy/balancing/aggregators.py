"""Balancers that read the tasks' gradients, computed by TorchJD (extra ``quickstudy[multitask]``).

Most are functions of the Gramian of the gradients alone, so that the gradients need not be kept
together in memory. All but FairGrad and Nash-MTL do not depend on the scale of all gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quickstudy.balancing import torch_jd
from quickstudy.balancing.by_name import Pairs, Table, refuse_unnamed
from quickstudy.balancing.checks import check_not_negative, check_positive, check_whole

_PART = "aggregation"


class _OfGramian(ABC):
    """A balancer without memory whose weights are a function of the Gramian."""

    reads: ClassVar[Literal["gramian"]] = "gramian"

    def __post_init__(self) -> None:
        self._weighting()  # raises without the extra, or for a wrong setting

    def _power(self) -> float:
        """The power of a factor of the Gramian by which the weights change."""
        return 0.0

    @abstractmethod
    def _weighting(self) -> Any:
        """TorchJD's weighting."""

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of the tasks' gradients."""
        weights = torch_jd.weigh(self._weighting(), gramian.cpu().double(), self._power())
        return weights.to(gramian)


def _projector(who: str) -> Any:
    """Onto the dual cone. TorchJD adds 1e-4 to the Gramian's diagonal, for Gramians in float32."""
    return torch_jd.make(who, "linalg", "QuadprogProjector", norm_eps=0.0, reg_eps=1e-8)


@dataclass(frozen=True)
class UPGrad(_OfGramian):
    """Unconflicting projection of gradients (Quinton and Rey, 2024, Jacobian Descent).

    Each task's gradient is projected onto the directions that increase no task's loss (the dual
    cone of all gradients), and the step is the mean of the projections. Where no two gradients
    conflict, it is the mean.

    Raises ImportError without the extra, or without quadprog and qpsolvers.
    """

    def _weighting(self) -> Any:
        return torch_jd.make("UPGrad", _PART, "UPGradWeighting", projector=_projector("UPGrad"))


@dataclass(frozen=True)
class DualProj(_OfGramian):
    """The mean gradient, projected onto the directions that increase no task's loss.

    Lopez-Paz and Ranzato (2017, Gradient Episodic Memory, equation 11).

    Raises ImportError without the extra, or without quadprog and qpsolvers.
    """

    def _weighting(self) -> Any:
        return torch_jd.make(
            "DualProj", _PART, "DualProjWeighting", projector=_projector("DualProj")
        )


@dataclass(frozen=True)
class MGDA(_OfGramian):
    """The shortest convex combination of the gradients (Désidéri, 2012; Sener and Koltun, 2018).

    min over weights >= 0 that sum to 1 of |sum_t w_t g_t|^2, by Frank and Wolfe's algorithm
    (algorithm 2 of Sener and Koltun). Every task's loss falls along it; it is 0 where there is no
    such direction.

    ``tolerance``   the size of a step of the solver below which it stops.
    ``iterations``  its greatest number of steps.

    Raises ImportError without the extra.
    """

    tolerance: float = 1e-3
    iterations: int = 100

    def _weighting(self) -> Any:
        check_positive("MGDA", tolerance=self.tolerance)
        check_whole("MGDA", 1, iterations=self.iterations)
        return torch_jd.make("MGDA", _PART, "MGDAWeighting", self.tolerance, self.iterations)


@dataclass(frozen=True)
class CAGrad(_OfGramian):
    """Conflict-averse gradients (Liu et al., 2021, algorithm 1).

    The direction d within c |g0| of the mean gradient g0 whose smallest inner product with a
    task's gradient is largest. c = 0 is the mean; as c grows it tends to MGDA's.

    ``c``  in [0, 1) for convergence to a minimum of the mean loss; 0.5 is one of the paper's
           values.

    Raises ImportError without the extra, or without cvxpy and clarabel.
    """

    c: float = 0.5

    def _weighting(self) -> Any:
        check_not_negative("CAGrad", c=self.c)
        return torch_jd.make("CAGrad", _PART, "CAGradWeighting", self.c)


@dataclass(frozen=True)
class IMTLG(_OfGramian):
    """Impartial gradients, IMTL-G (Liu et al., 2021, Towards Impartial Multi-task Learning).

    The combination, of weights that sum to 1, whose projections onto all tasks' gradients are
    equal. Weights may be negative.

    Raises ImportError without the extra.
    """

    def _weighting(self) -> Any:
        return torch_jd.make("IMTLG", _PART, "IMTLGWeighting")


@dataclass(frozen=True)
class AlignedMTL(_OfGramian):
    """Aligned principal components (Senushkin et al., 2023, algorithm 1).

    The Jacobian is replaced by the nearest one whose singular values are all equal to its
    smallest, and its rows are averaged.

    Raises ImportError without the extra.
    """

    def _weighting(self) -> Any:
        return torch_jd.make("AlignedMTL", _PART, "AlignedMTLWeighting")


@dataclass(frozen=True)
class FairGrad(_OfGramian):
    """Fair shares of the decrease of the losses (Ban and Ji, 2024, equation 4).

    Weights with (G w)_t = w_t^(-1 / alpha), where G is the Gramian: alpha = 1 shares by Nash, more
    is closer to the worst-off task.

    ``alpha``  the fairness, above 0.

    Raises ImportError without the extra.
    """

    alpha: float = 1.0

    def _power(self) -> float:
        return -self.alpha / (1 + self.alpha)

    def _weighting(self) -> Any:
        check_positive("FairGrad", alpha=self.alpha)
        return torch_jd.make("FairGrad", _PART, "FairGradWeighting", self.alpha)


@dataclass
class PCGrad:
    """Projecting conflicting gradients (Yu et al., 2020, algorithm 1).

    Each task's gradient loses, for every other task in a random order, the part that goes against
    that task's gradient; the step is the sum.

    ``seed``  of the orders.

    Raises ImportError without the extra.
    """

    seed: int = 0
    reads: ClassVar[Literal["gramian"]] = "gramian"
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_whole("PCGrad", 0, seed=self.seed)
        torch_jd.make("PCGrad", _PART, "PCGradWeighting")

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of the tasks' gradients."""
        weighting, numbers = torch_jd.make("PCGrad", _PART, "PCGradWeighting"), gramian.cpu()
        with torch_jd.seeded(self.seed, self._steps, numbers.device):
            weights = torch_jd.weigh(weighting, numbers.double())
        self._steps += 1
        return weights.to(gramian)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._steps = state["steps"]


@dataclass
class GradVac:
    """Gradient vaccine (Wang et al., 2021): PCGrad with a goal for each pair of tasks.

    The gradient of task i gets a part of task j's where the cosine of the two is below the running
    mean of this cosine; the step is the sum.

    ``beta``  of the running means: the share of the new cosine.
    ``seed``  of the orders of tasks.

    Raises ValueError for tasks without names, ImportError without the extra.
    """

    beta: float = 0.5
    seed: int = 0
    reads: ClassVar[Literal["gramian"]] = "gramian"
    _goals: Pairs = field(default_factory=Pairs, init=False, repr=False, compare=False)
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_not_negative("GradVac", beta=self.beta)
        check_whole("GradVac", 0, seed=self.seed)
        if self.beta > 1:
            raise ValueError(
                f"GradVac: beta must be in [0, 1]; found {self.beta!r}. Leave it out for the "
                "default."
            )
        torch_jd.make("GradVac", _PART, "GradVacWeighting")

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of the tasks' gradients."""
        refuse_unnamed("GradVac", names)
        weighting = torch_jd.make("GradVac", _PART, "GradVacWeighting", self.beta)
        weighting._phi_t = self._goals.get(names)
        weighting._state_key = (len(names), torch.float64)
        numbers = gramian.cpu().double()
        with torch_jd.seeded(self.seed, self._steps, numbers.device):
            weights = torch_jd.weigh(weighting, numbers)
        self._goals.set(names, weighting._phi_t)
        self._steps += 1
        return weights.to(gramian)

    def state_dict(self) -> dict[str, Any]:
        """The goals by pairs of names, and the number of steps."""
        return {"goals": self._goals.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._goals.load_state_dict(state["goals"])
        self._steps = state["steps"]


@dataclass
class NashMTL:
    """Nash's bargaining between tasks (Navon et al., 2022, algorithm 1).

    Weights with G w = 1 / w, entry by entry, where G is the Gramian, by a sequence of convex
    problems that starts at the weights of the step before.

    ``longest``     greatest norm of the step's gradient; 0 for none.
    ``iterations``  greatest number of convex problems in a step.

    Raises ValueError for tasks without names, ImportError without the extra, or without cvxpy and
    ecos, whose warnings are not shown.
    """

    longest: float = 1.0
    iterations: int = 20
    reads: ClassVar[Literal["gramian"]] = "gramian"
    _last: Table = field(init=False, repr=False, compare=False)
    _solvers: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_not_negative("NashMTL", longest=self.longest)
        check_whole("NashMTL", 1, iterations=self.iterations)
        self._last = Table({"weight": 1.0})
        self._solver(1)

    def _solver(self, tasks: int) -> Any:
        """One for each number of tasks, since cvxpy is slow to state a problem."""
        if tasks not in self._solvers:
            self._solvers[tasks] = torch_jd.make(
                "NashMTL", _PART, "NashMTL", tasks, 0.0, 1, self.iterations
            ).weighting
        return self._solvers[tasks]

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of the tasks' gradients."""
        refuse_unnamed("NashMTL", names)
        solver = self._solver(len(names))
        solver.prvs_alpha = self._last.get("weight", names).numpy()

        def weighting(gramian: Tensor) -> Tensor:
            if len(gramian) == 1:  # whose problem cvxpy refuses
                return gramian[0] ** -0.5
            weights: Tensor = solver(torch_jd.square_root(gramian))
            return weights

        numbers = gramian.cpu().double()
        weights = torch_jd.weigh(weighting, numbers, -0.5)
        self._last.set("weight", names, torch.as_tensor(solver.prvs_alpha))
        length = (weights @ numbers @ weights).clamp(min=0).sqrt()
        if 0 < self.longest < length:
            weights = weights * self.longest / length
        return weights.to(gramian)

    def state_dict(self) -> dict[str, Any]:
        """The last weights by name."""
        return {"last": self._last.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._last.load_state_dict(state["last"])
