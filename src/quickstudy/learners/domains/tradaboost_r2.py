"""Two-stage TrAdaBoost.R2: boosting for regression, whose source rows lose weight step by step."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.answers.reals import Reals
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.base_learner import base_learner, own_exceptions
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.tasks.examples import labelled
from quickstudy.tasks.transfer import is_target

LARGEST_RATE = 1e12
"""Of a row's loss of weight with its error, at which only source rows without error are left."""


class TrAdaBoostR2(Learner):
    """Maps a support set of source and target rows to a boosted regression on reweighted rows.

        for t = 1 … S:                                               w sums to 1
            model_t = AdaBoost.R2' on all rows under w, in which source rows keep their weights
            error_t = error of such models on target rows left out, by cross-validation
            h       = learner fitted under w;  e_i = |h(x_i) - y_i| / max_j |h(x_j) - y_j|
            w_i     = w_i beta_t^(e_i) / Z in the source, w_i / Z in the target, with the beta_t
                      for which the target has the share  m / (n + m) + t / (S - 1) n / (n + m)
        predictions = those of the model_t of the least error_t

        AdaBoost.R2':  for k = 1 … N:
            h_k fitted under w,  eps = sum_i w_i e_i,  b_k = eps / (1 - eps)
            w_i = w_i b_k^(1 - e_i) in the target, scaled so that its sum stays the same
        prediction = the median of the h_k(x), weighted by ln(1 / b_k)

    Groups tell rows apart: 0 is the target, see :mod:`quickstudy.tasks.transfer`. In a plain task
    without source rows there is one step: AdaBoost.R2.

    ``learner``  any learner for real targets that uses row weights; or a backbone, which is taken
                 for ``LinearProbe(backbone)``. The paper boosts model trees.
    ``steps``    S; 30 in the paper.
    ``rounds``   N; 10 as in the paper.
    ``folds``    of the cross-validation, 10 as in the paper, or as many as there are target rows.
                 Rows are put into folds by the size of their targets, so that their order does not
                 matter.

    It fits about S (folds + 1) N times. AdaBoost.R2' ends where eps is 1/2 or more, or 0.
    Without a labelled target row, the learner on the source rows is taken, with a RuntimeWarning;
    with a single one, which cannot be left out, the last step.

    State: ``learners``, the states of the rounds of the chosen model; ``votes`` (rounds,),
    ln(1 / b_k) by their sum; ``errors`` (steps,); ``step`` (), the chosen one, from 0.

    Raises ValueError for numbers that are too small, and for a learner that ignores row weights.

    Reference: Pardoe and Stone (2010), Boosting for regression transfer, algorithm 3; Drucker
    (1997), Improving regressors using boosting techniques.
    Differs from the paper in the base learner and in S; in several targets a row, whose error is
    the Euclidean norm over known elements and whose median is taken column by column; and in row
    weights, which multiply the first w, as the paper's are equal. The left-out error is the mean
    absolute one. How AdaBoost.R2' is scaled to keep source weights, the paper leaves open.

    >>> import torch, quickstudy as qs
    >>> learner = qs.TrAdaBoostR2(torch.nn.Identity(), steps=3, rounds=2, folds=2)
    >>> x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    >>> support = qs.examples(x, 2 * x, groups=[1] * 12 + [0] * 8)
    >>> learner(support, qs.regression())(x).shape
    torch.Size([20, 1])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Reals,)

    def __init__(
        self, learner: nn.Module, steps: int = 10, rounds: int = 10, folds: int = 10
    ) -> None:
        super().__init__()
        if steps < 2 or rounds < 1 or folds < 2:
            raise ValueError(
                "TrAdaBoostR2: steps and folds must be at least 2, and rounds at least 1; found "
                f"steps={steps}, rounds={rounds}, folds={folds}."
            )
        self.learner = base_learner(learner, "TrAdaBoostR2", Reals, LinearProbe)
        self.steps, self.rounds, self.folds = steps, rounds, folds
        self.exceptions = own_exceptions(  # type: ignore[misc]  # those of its learner, too
            self.learner, "it stops where the error on the rows says so"
        )

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The rounds of the best step."""
        support = labelled(support, spec.answer)
        target, counts = is_target(support), support.weights.detach().double()
        total = counts.sum()
        n, m = counts[~target].sum(), counts[target].sum()
        weights = counts / total.clamp_min(torch.finfo(counts.dtype).tiny)
        if not float(m):
            self._warn_without_target(bool(n > 0))
            state = self.learner.adapt(support, spec)
            return self._state(_Model([state], [1.0]), support, [0.0], 0)
        if not float(n):
            return self._state(self._boost(support, weights, target, spec), support, [0.0], 0)
        models, errors = [], []
        folds = self._folds(support, target & (counts > 0))
        for step in range(1, self.steps + 1):
            models.append(self._boost(support, weights, target, spec))
            errors.append(self._left_out_error(support, weights, target, folds, spec))
            if step < self.steps:
                share = float(m / total + step / (self.steps - 1) * n / total)
                h = self._fit(support, weights, spec)
                adjusted = self._adjusted(self._errors(h, support, spec), support.weights)
                weights = shifted_to_target(weights, adjusted, target, share)
        best = len(models) - 1 if not folds else min(range(len(errors)), key=errors.__getitem__)
        return self._state(models[best], support, errors, best)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """The weighted median of the rounds' values (n, d)."""
        values = [self.learner.predict(each, inputs, spec) for each in state["learners"]]
        return weighted_median(torch.stack(values), state["votes"])

    def _boost(self, support: Examples, weights: Tensor, target: Tensor, spec: TaskSpec) -> _Model:
        """AdaBoost.R2' under ``weights``, which sum to 1."""
        states: list[State] = []
        votes: list[float] = []
        share = weights[target].sum()
        while len(states) < self.rounds:
            state = self._fit(support, weights, spec)
            adjusted = self._adjusted(self._errors(state, support, spec), support.weights)
            error = float(weights @ adjusted)
            if error <= 0:
                return _Model([state], [1.0])
            if error >= 0.5:
                return _Model(states, votes) if states else _Model([state], [1.0])
            beta = error / (1 - error)
            states.append(state)
            votes.append(-math.log(beta))
            own = weights * beta ** (1 - adjusted)
            scale = share / own[target].sum().clamp_min(torch.finfo(own.dtype).tiny)
            weights = torch.where(target, own * scale, weights)
        return _Model(states, votes)

    def _left_out_error(
        self,
        support: Examples,
        weights: Tensor,
        target: Tensor,
        folds: list[Tensor],
        spec: TaskSpec,
    ) -> float:
        """The mean error on each fold of target rows of the model of all other rows."""
        total = 0.0
        for fold in folds:
            kept = weights.masked_fill(fold, 0.0)
            rows = support._replace(weights=support.weights.masked_fill(fold, 0.0))
            model = self._boost(rows, kept / kept.sum(), target, spec)
            values = self.predict(self._state(model, support, [], 0), support.inputs, spec)
            errors = _row_errors(values, support.targets)
            total += float((support.weights.double() * errors)[fold].sum())
        return total

    def _folds(self, support: Examples, rows: Tensor) -> list[Tensor]:
        """Masks (n,) of the folds of target rows; none where there is a single row."""
        places = rows.nonzero().squeeze(-1)
        if len(places) < 2:
            return []
        size = support.targets.nan_to_num(nan=0.0).sum(-1)[places]
        ranked = places[size.argsort(stable=True)]
        number = min(self.folds, len(places))
        masks = []
        for fold in range(number):
            mask = torch.zeros_like(rows)
            mask[ranked[fold::number]] = True
            masks.append(mask)
        return masks

    def _fit(self, support: Examples, weights: Tensor, spec: TaskSpec) -> State:
        """The learner's state under ``weights``, scaled to the sum of the support's."""
        total = support.weights.double().sum()
        scaled = (weights * total).to(support.weights.dtype)
        return self.learner.adapt(support._replace(weights=scaled), spec)

    def _errors(self, state: State, support: Examples, spec: TaskSpec) -> Tensor:
        """The absolute error of each row (n,)."""
        with torch.no_grad():
            return _row_errors(self.learner.predict(state, support.inputs, spec), support.targets)

    def _adjusted(self, errors: Tensor, weights: Tensor) -> Tensor:
        """Errors over the largest of a row of the support set (n,), in [0, 1]."""
        largest = errors.where(weights > 0, 0.0).max()
        return (errors / largest.clamp_min(torch.finfo(errors.dtype).tiny)).clamp(0, 1)

    def _state(self, model: _Model, support: Examples, errors: list[float], step: int) -> State:
        votes = support.weights.new_tensor(model.votes)
        return {
            "learners": model.states,
            "votes": votes / votes.sum(),
            "errors": support.weights.new_tensor(errors),
            "step": torch.tensor(step, device=votes.device),
        }

    def _warn_without_target(self, needed: bool) -> None:
        if needed:
            warnings.warn(
                "TrAdaBoostR2: needs labelled target rows to see which source rows agree; found "
                "none. The base learner on the source rows is taken. Label rows of group 0.",
                RuntimeWarning,
                stacklevel=6,
            )


class _Model(NamedTuple):
    states: list[State]
    votes: list[float]


def shifted_to_target(weights: Tensor, errors: Tensor, target: Tensor, share: float) -> Tensor:
    """Weights w_i beta^(e_i) of source rows, of which the target has ``share``; they sum to 1.

    ``weights`` and ``errors`` (n,); beta = exp(-rate) is found by bisection of the rate, since rows
    of small errors need a beta that is too small to bisect. Where no beta gives the target as much,
    because some source rows have no error, all others get weight 0.
    """
    own = weights[target].sum()

    def enough(rate: float) -> bool:
        others = (weights * torch.exp(-rate * errors))[~target].sum()
        return float(own / (own + others)) >= share

    low, high = 0.0, 1.0
    while not enough(high) and high < LARGEST_RATE:
        low, high = high, 2 * high
    for _ in range(60):
        rate = (low + high) / 2
        low, high = (low, rate) if enough(rate) else (rate, high)
    shifted = torch.where(target, weights, weights * torch.exp(-high * errors))
    return shifted / shifted.sum()


def weighted_median(values: Tensor, votes: Tensor) -> Tensor:
    """(k, n, d), (k,) -> (n, d): the smallest value up to which there is half of the votes."""
    ordered, order = values.sort(0)
    reached = votes[order].cumsum(0) >= votes.sum() / 2 * (1 - 1e-6)
    return ordered.gather(0, reached.to(torch.uint8).argmax(0, keepdim=True)).squeeze(0)


def _row_errors(values: Tensor, targets: Tensor) -> Tensor:
    """The norm of each row's error over its known elements (n,), in float64."""
    difference: Tensor = values.double() - targets.nan_to_num(nan=0.0).double()
    known = ~targets.isnan()
    errors: Tensor = torch.linalg.vector_norm(difference.where(known, 0.0), dim=-1)
    return errors
