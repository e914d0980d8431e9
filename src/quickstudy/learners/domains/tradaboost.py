"""TrAdaBoost: boosting in which source rows lose weight where they disagree with the target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.base_learner import base_learner, own_exceptions
from quickstudy.learners.outputs import present_entry
from quickstudy.learners.transfer.linear_svm import LinearSVM
from quickstudy.tasks.examples import labelled, without_absent
from quickstudy.tasks.transfer import is_target

CHANCE = 1 - 1e-6
"""b_t from which on a round counts as no better than chance: nearer to 1, it is rounding."""

Loss = Callable[[Tensor], Tensor]
"""Logits (n, ways) -> the hypothesis h (n, ways), which sums to 1; the loss is 1 - h[target]."""


def soft_loss(logits: Tensor) -> Tensor:
    """h = softmax(logits): with two classes, the loss 1 - h[target] is |p - y| of the paper."""
    return logits.softmax(-1)


def hard_loss(logits: Tensor) -> Tensor:
    """h = 1 for the most probable class: the loss is 1 for a row that is classified wrongly."""
    return one_hot(logits.argmax(-1), logits.shape[-1], logits.dtype)


class TrAdaBoost(Learner):
    """Maps a support set of source and target rows to a vote of learners on reweighted rows.

        for t = 1 … N:
            h_t  = learner fitted to all rows under weights w / sum w
            e_i  = 1 - h_t(x_i)[y_i]                          = |h_t(x_i) - y_i| of two classes
            eps  = sum_target w_i e_i / sum_target w_i,       b_t = eps / (1 - eps) / (ways - 1)
            w_i  = w_i b^(e_i) in the source, w_i b_t^(-e_i) in the target
        b = 1 / (1 + sqrt(2 ln n / N)),   n source rows
        p(x) = sum_t a_t h_t(x) / sum_t a_t,   a_t = ln(1 / b_t),   t = ceil(N / 2) … N
        logits = ln p(x)

    Groups tell rows apart: 0 is the target, see :mod:`quickstudy.tasks.transfer`. In a plain task
    all rows are of the target, and this is AdaBoost with the vote of the later rounds.

    ``learner``  any learner for classes that uses row weights; or a backbone, which is taken for
                 ``LinearSVM(backbone)``. The paper boosts linear support vector machines.
    ``rounds``   N; 100 in the paper, whose error changes little after 20.
    ``loss``     :func:`soft_loss` or :func:`hard_loss`. With the hard one, a learner that fits the
                 few target rows has eps = 0 in the first round, and nothing is transferred.

    Boosting stops, and warns (RuntimeWarning), where eps is 0 (that round alone decides), where b_t
    is 1 or more, as with eps of 1/2 or more of two classes (that round does not count, unless it is
    the first), and without a labelled target row (the learner on the source rows decides).

    State: ``learners``, the states of the rounds that vote; ``votes`` (rounds,), a_t / sum a_t;
    ``betas``, b_t of the rounds where it was below 1; ``rounds`` (), how many may vote;
    ``present`` (ways,).

    Raises ValueError for fewer than 1 round, and for a learner that ignores row weights.

    Reference: Dai, Yang, Xue and Yu (2007), Boosting for transfer learning.
    Differs from the paper in more than two classes, where b_t is that of SAMME (Zhu et al., 2009,
    Multi-class AdaBoost) for as many ways as the support has; in the vote, which goes to the first
    class in a tie instead of the second; and in weights: those of the rows are the first w, which
    the paper leaves open, n is their sum over the source, and w is scaled to keep its sum instead
    of 1, so that C of the base learner keeps its meaning. The paper's bounds are for the hard loss.

    >>> import torch, quickstudy as qs
    >>> learner = qs.TrAdaBoost(torch.nn.Identity(), rounds=5)
    >>> x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    >>> y, groups = (x[:, 0] > 0).long(), [1] * 12 + [0] * 8
    >>> learner(qs.examples(x, y, groups=groups), qs.classification(ways=2))(x).shape
    torch.Size([20, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes,)

    def __init__(self, learner: nn.Module, rounds: int = 20, loss: Loss = soft_loss) -> None:
        super().__init__()
        if rounds < 1:
            raise ValueError(f"TrAdaBoost: rounds must be at least 1; found {rounds}.")
        self.learner = base_learner(learner, "TrAdaBoost", Classes, LinearSVM)
        self.rounds, self.loss = rounds, loss
        self.exceptions = own_exceptions(  # type: ignore[misc]  # those of its base learner, too
            self.learner, "it stops where the error on target rows says so"
        )
        if loss is hard_loss:
            gradient = {"every_parameter_gets_a_gradient": "hard votes have no gradient"}
            self.exceptions = self.exceptions | gradient  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The states and votes of the later rounds."""
        support = labelled(support, spec.answer)
        target, weights = is_target(support), support.weights.double()
        weights = weights.detach()
        total, beta = weights.sum(), source_beta(weights[~target].sum(), self.rounds)
        states: list[State] = []
        betas: list[float] = []
        ways = _ways(support, spec)
        while len(states) < self.rounds:
            scaled = (weights * total / weights.sum()).to(support.weights.dtype)
            state = self.learner.adapt(support._replace(weights=scaled), spec)
            errors = self._errors(state, support, spec)
            of_target = weights * target
            if not bool(of_target.any()):
                self._warn("needs labelled target rows to see which source rows agree; found none. "
                           "The base learner on the source rows decides. Label rows of group 0",
                           bool(weights.any()))  # fmt: skip
                return self._state([state], [], support, spec)
            error = float(of_target @ errors / of_target.sum())
            odds = error / max(1 - error, 1e-300) / (ways - 1)
            if not 0 < odds < CHANCE:
                self._warn(self._why(error, len(states) + 1))
                if error <= 0:
                    return self._state([state], [0.0], support, spec)
                if not states:
                    return self._state([state], [], support, spec)
                break
            states.append(state)
            betas.append(odds)
            bases = weights.new_tensor([beta, 1 / odds])
            weights = weights * bases[target.long()] ** errors
            weights = weights / weights.sum()  # or they could grow without bound
        return self._state(states, betas, support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways): log of the share of the vote."""
        shares = [
            vote * self.loss(self.learner.predict(each, inputs, spec))
            for vote, each in zip(state["votes"], state["learners"], strict=True)
        ]
        total = torch.stack(shares).sum(0)
        logits = total.clamp_min(torch.finfo(total.dtype).tiny).log()
        return without_absent(logits, state["present"])

    def _errors(self, state: State, support: Examples, spec: TaskSpec) -> Tensor:
        """1 - h(x_i)[y_i] for each row (n,), in float64; 0 for rows without a label."""
        with torch.no_grad():
            h = self.loss(self.learner.predict(state, support.inputs, spec).double())
        right = h.gather(-1, support.targets.long().clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(support.targets >= 0, 1 - right, 0.0).clamp(0, 1)

    def _state(
        self, states: list[State], betas: list[float], support: Examples, spec: TaskSpec
    ) -> State:
        """The later half of ``states`` with their votes; a single state has the only one."""
        first = math.ceil(len(states) / 2) - 1
        made = support.weights
        a = made.new_ones(1) if len(states) == 1 else -made.new_tensor(betas[first:]).log()
        return {
            "learners": states[first:],
            "votes": a / a.sum(),
            "betas": made.new_tensor(betas),
            "rounds": torch.tensor(len(states), device=made.device),
            **present_entry(support, spec),
        }

    def _why(self, error: float, number: int) -> str:
        if error <= 0:
            soft = "soft_loss, which is 0 for certain predictions alone"
            remedy = soft if self.loss is hard_loss else "a base learner that is less certain"
            return (
                f"stopped in round {number} of {self.rounds}, since the base learner is right on "
                "all target rows, so that there is nothing to boost; this round alone decides. Use "
                f"{remedy}"
            )
        decides = "it alone decides" if number == 1 else f"the {number - 1} before it vote"
        return (
            f"stopped in round {number} of {self.rounds}, whose error on the target rows, "
            f"{error:.2f}, is not below that of chance; {decides}. Use a base learner that fits "
            "them better"
        )

    def _warn(self, what: str, needed: bool = True) -> None:
        if needed:
            warnings.warn(f"TrAdaBoost: {what}.", RuntimeWarning, stacklevel=6)


def source_beta(rows: Tensor, rounds: int) -> float:
    """1 / (1 + sqrt(2 ln n / N)) for n source rows; n of less than 1 counts as 1."""
    return 1 / (1 + math.sqrt(2 * math.log(max(1.0, float(rows))) / rounds))


def _ways(support: Examples, spec: TaskSpec) -> int:
    """The number of classes in the support set, at least 2."""
    present = spec.answer.present(support.targets, support.weights)
    return spec.outputs if present is None else max(2, int(present.sum()))
