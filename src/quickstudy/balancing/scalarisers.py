"""Balancers that read losses alone, computed by TorchJD (extra ``quickstudy[multitask]``).

Each minimises one number made of the tasks' losses; the derivatives of that number are the weights.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quickstudy.balancing import torch_jd
from quickstudy.balancing.by_name import Learned, Table, refuse_unnamed
from quickstudy.balancing.checks import check_not_negative, check_positive, check_whole
from quickstudy.base.words import first_few

_PART = "scalarization"


def _double(losses: Tensor) -> Tensor:
    return losses.detach().to("cpu", torch.float64)


@dataclass
class _LearnsScales(ABC):
    """A balancer with a number s_t for each task, learnt by Adam; TorchJD has its objective."""

    rate: float = 0.01
    reads: ClassVar[Literal["losses"]] = "losses"
    parameter: ClassVar[str]
    """TorchJD's name of the s_t."""
    entry: ClassVar[str]
    """Their name in checkpoints."""
    _learnt: Learned = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive(type(self).__name__, rate=self.rate)
        self._scalariser(1)
        self._learnt = Learned(self.rate)

    def _scalariser(self, tasks: int) -> Any:
        who = type(self).__name__
        return torch_jd.make(who, _PART, who, tasks)

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) by the s_t; then one step for the s_t."""
        refuse_unnamed(type(self).__name__, names)
        scalariser = self._scalariser(len(names)).double()
        scales = getattr(scalariser, self.parameter)
        scales.data.copy_(self._learnt.get(names))
        weights, step = torch_jd.derivatives(scalariser, _double(losses), scales)
        self._learnt.descend(names, step)
        return weights.to(losses)

    def state_dict(self) -> dict[str, Any]:
        """The s_t by name."""
        return {self.entry: self._learnt.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._learnt.load_state_dict(state[self.entry])


@dataclass
class UW(_LearnsScales):
    """Uncertainty weights for squared errors (Kendall, Gal and Cipolla, 2018).

    sum_t exp(-s_t) L_t / 2 + s_t / 2, with s_t = log sigma_t^2 learnt; it starts at 0.

    This is TorchJD's. :class:`quickstudy.balancing.Uncertainty` needs no extra, and has the form
    for classes too.

    ``rate``  of Adam on s_t.

    Raises ValueError for tasks without names, ImportError without the extra.
    """

    parameter: ClassVar[str] = "log_var"
    entry: ClassVar[str] = "noise"


@dataclass
class IMTLL(_LearnsScales):
    """Impartial loss balancing, IMTL-L (Liu et al., 2021, Towards Impartial Multi-task Learning).

    sum_t exp(s_t) L_t - s_t, with s_t learnt; it starts at 0. At its best s_t every scaled loss
    exp(s_t) L_t is 1.

    ``rate``  of Adam on s_t; ours, since the paper trains s_t with the network's optimiser.

    Raises ValueError for tasks without names, ImportError without the extra.
    """

    parameter: ClassVar[str] = "log_scale"
    entry: ClassVar[str] = "scales"


@dataclass
class DWA:
    """Dynamic weight average (Liu, Johns and Davison, 2019, equation 7).

    w_t = T softmax_t(r_t / temperature), where r_t is the mean loss of the last epoch over that of
    the epoch before: tasks whose loss falls slowly weigh more. T is the number of tasks.

    ``epoch``        how many steps are called an epoch.
    ``temperature``  2 in the paper; more makes weights more equal.

    Tasks without two epochs behind them count as r_t = 1.

    Raises ValueError for tasks without names, ImportError without the extra.
    """

    epoch: int = 100
    temperature: float = 2.0
    reads: ClassVar[Literal["losses"]] = "losses"
    _tasks: Table = field(init=False, repr=False, compare=False)
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("DWA", temperature=self.temperature)
        check_whole("DWA", 1, epoch=self.epoch)
        torch_jd.make("DWA", _PART, "DWA")
        self._tasks = Table({"sum": 0.0, "count": 0.0, "last": 0.0, "older": 0.0})

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """The weights (tasks,) of this epoch; the losses are counted for the next ones."""
        refuse_unnamed("DWA", names)
        values, tasks = _double(losses), self._tasks
        older, last = tasks.get("older", names), tasks.get("last", names)
        known = (older > 0) & (last > 0)
        scalariser = torch_jd.make("DWA", _PART, "DWA", self.temperature)
        one = torch.ones_like(values)
        scalariser._previous_averages = [one, torch.where(known, last / older, one)]
        (weights,) = torch_jd.derivatives(scalariser, values)
        tasks.set("sum", names, tasks.get("sum", names) + values)
        tasks.set("count", names, tasks.get("count", names) + 1)
        self._steps += 1
        if self._steps % self.epoch == 0:
            self._end_epoch()
        return weights.to(losses)

    def _end_epoch(self) -> None:
        tasks = self._tasks
        seen = [n for n, c in zip(tasks.names, tasks.get("count", tasks.names), strict=True) if c]
        tasks.set("older", seen, tasks.get("last", seen))
        tasks.set("last", seen, tasks.get("sum", seen) / tasks.get("count", seen))
        for column in ("sum", "count"):
            tasks.set(column, seen, torch.zeros(len(seen)))

    def state_dict(self) -> dict[str, Any]:
        """Mean losses by name, and the number of steps."""
        return {"tasks": self._tasks.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._tasks.load_state_dict(state["tasks"])
        self._steps = state["steps"]


@dataclass
class FAMO:
    """Fast adaptive multi-task optimisation (Liu et al., 2023, algorithm 1).

    With z = softmax(xi), the gradient of a step is that of c sum_t z_t log L_t, where c makes the
    weights c z_t / L_t sum to 1. After the optimiser's step the losses of the same tasks are
    computed again, and xi descends so that the logarithm of every loss falls at the same rate.

    ``rate``, ``decay``  of Adam on xi: 0.025 as in the paper, and its regularisation.

    Raises ValueError for tasks without names, and in training for a loss that is not above 0;
    ImportError without the extra.
    """

    rate: float = 0.025
    decay: float = 1e-3
    reads: ClassVar[Literal["losses"]] = "losses"
    _logits: Learned = field(init=False, repr=False, compare=False)
    _before: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("FAMO", rate=self.rate)
        check_not_negative("FAMO", decay=self.decay)
        torch_jd.make("FAMO", _PART, "FAMO", 1)
        self._logits = Learned(self.rate, self.decay)

    def _scalariser(self, names: Sequence[str]) -> Any:
        scalariser = torch_jd.make("FAMO", _PART, "FAMO", len(names)).double()
        scalariser._w.data.copy_(self._logits.get(names))
        return scalariser

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """c z_t / L_t (tasks,)."""
        refuse_unnamed("FAMO", names)
        _refuse_not_positive("FAMO", losses, names)
        values = _double(losses)
        self._before = dict(zip(names, values.tolist(), strict=True))
        (weights,) = torch_jd.derivatives(self._scalariser(names), values)
        return weights.to(losses)

    def see_result(self, losses: Tensor, names: Sequence[str]) -> None:
        """One step for xi, from the losses (tasks,) of the same tasks after the step."""
        _refuse_not_positive("FAMO", losses, names)
        scalariser = self._scalariser(names)
        before = torch.tensor([self._before[name] for name in names], dtype=torch.float64)
        scalariser(before)
        # TorchJD steps by an optimiser of its own, whose memory goes by position: with plain
        # descent at rate 1 its step is the gradient.
        scalariser._optimizer = torch.optim.SGD([scalariser._w], lr=1.0)
        start = scalariser._w.detach().clone()
        scalariser.update(_double(losses))
        self._logits.descend(names, start - scalariser._w.detach())

    def state_dict(self) -> dict[str, Any]:
        """xi by name."""
        return {"logits": self._logits.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._logits.load_state_dict(state["logits"])


@dataclass(frozen=True)
class STCH:
    """Smooth Tchebycheff scalarisation (Lin et al., 2024): a smooth form of the worst task.

    mu log sum_t exp(L_t / (T mu)), over the T tasks of the step. The less ``mu``, the more the
    step is that of the task with the largest loss alone; the losses should have one scale.

    ``mu``  the smoothness; the paper tries 0.01 to 1.

    Raises ImportError without the extra.
    """

    mu: float = 0.1
    reads: ClassVar[Literal["losses"]] = "losses"

    def __post_init__(self) -> None:
        check_positive("STCH", mu=self.mu)
        torch_jd.make("STCH", _PART, "STCH", self.mu)

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """softmax_t(L_t / (T mu)) / T (tasks,)."""
        scalariser = torch_jd.make("STCH", _PART, "STCH", self.mu)
        return torch_jd.derivatives(scalariser, _double(losses))[0].to(losses)


@dataclass(frozen=True)
class GeometricMean:
    """The geometric mean of the losses (Chennupati et al., 2019, MultiNet++): (prod_t L_t)^(1/T).

    Its gradient does not depend on the losses' scales but for a common factor.

    Raises ImportError without the extra, and in training ValueError for a loss that is not above 0.
    """

    reads: ClassVar[Literal["losses"]] = "losses"

    def __post_init__(self) -> None:
        torch_jd.make("GeometricMean", _PART, "GeometricMean")

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """(prod_t L_t)^(1/T) / (T L_t) (tasks,)."""
        _refuse_not_positive("GeometricMean", losses, names)
        scalariser = torch_jd.make("GeometricMean", _PART, "GeometricMean")
        return torch_jd.derivatives(scalariser, _double(losses))[0].to(losses)


@dataclass
class RandomWeights:
    """Random weights, drawn anew in each step (Lin et al., 2022, random loss weighting).

    softmax of standard normal numbers (algorithm 2). A baseline: it balances nothing.

    ``seed``  of the draws.

    Raises ImportError without the extra.
    """

    seed: int = 0
    reads: ClassVar[Literal["losses"]] = "losses"
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_whole("RandomWeights", 0, seed=self.seed)
        torch_jd.make("RandomWeights", _PART, "Random")

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """Positive weights (tasks,) that sum to 1."""
        scalariser, values = torch_jd.make("RandomWeights", _PART, "Random"), _double(losses)
        with torch_jd.seeded(self.seed, self._steps, values.device):
            (weights,) = torch_jd.derivatives(scalariser, values)
        self._steps += 1
        return weights.to(losses)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._steps = state["steps"]


def _refuse_not_positive(who: str, losses: Tensor, names: Sequence[str]) -> None:
    numbers = zip(names, losses.tolist(), strict=True)
    bad = [f"{name or 'a task'}: {loss:g}" for name, loss in numbers if not loss > 0]
    if bad:
        raise ValueError(
            f"{who}: takes logarithms of losses, which must be above 0; found {first_few(bad)}. "
            "Use another balancer, or a loss that stays above 0."
        )
