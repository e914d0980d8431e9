"""How much candidates err on labelled target rows that were left out of their support set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes, cross_entropy
from quickstudy.base.trees import concatenate
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.target_folds import left_out_rows, target_folds
from quickstudy.tasks.examples import one_place, take
from quickstudy.tasks.transfer import is_target

FLOOR = 0.01
"""The share of the uniform distribution in the probabilities that are judged, so that one row of a
class that a candidate does not know cannot decide alone."""

TEMPERATURES = 2.0 ** torch.arange(-8.0, 8.5, 0.5, dtype=torch.float64)
"""Factors on logits that are tried, in units of the logits' own spread."""


class Candidate(NamedTuple):
    """A learner, and which rows of a support set (n,) it is given: all of them for None.

    Chosen rows are given as a plain task, all in group 0, also where they come from a source: a
    learner that needs target rows can be fitted to a source, too.
    """

    name: str
    learner: Learner
    rows: Callable[[Examples], Tensor] | None

    def adapted(self, support: Examples, spec: TaskSpec) -> State:
        """The learner's state after adapting to its rows of ``support``."""
        if self.rows is None:
            return self.learner.adapt(support, spec)
        given = take(support, self.rows(support))
        return self.learner.adapt(given._replace(groups=one_place(given.weights)), spec)

    def predictions(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """What the learner predicts with ``state``."""
        return self.learner.predict(state, inputs, spec)

    def reads_target(self, support: Examples) -> bool:
        """Whether some of its rows are target rows, so that it differs from fold to fold."""
        return self.rows is None or bool((self.rows(support) & is_target(support)).any())


@torch.no_grad()
def left_out_errors(
    candidates: Sequence[Candidate], support: Examples, spec: TaskSpec, folds: int, repeats: int
) -> tuple[Tensor, Tensor]:
    """(candidates, n): each one's mean error on each labelled target row; weights (n,) of the rows.

    The error of a class is the log loss at the candidate's own best temperature, since learners
    differ in the scale of their logits; that of other answers is the answer's loss.
    """
    divisions = target_folds(support, spec.answer, folds, repeats).to(support.weights.device)
    places = left_out_rows(support, spec.answer)
    rows = take(support, places.repeat(repeats))
    found = []
    for candidate in candidates:
        parts = [_of_division(candidate, support, each, places, spec) for each in divisions]
        errors = _errors(concatenate(*parts), rows, spec.answer)
        found.append(errors.reshape(repeats, -1).mean(0))
    return torch.stack(found), support.weights[places]


def _of_division(
    candidate: Candidate, support: Examples, division: Tensor, places: Tensor, spec: TaskSpec
) -> Any:
    """The predictions for the rows at ``places``, each without the rows of its fold."""
    if not candidate.reads_target(support):  # it is the same in every fold
        state = candidate.adapted(support, spec)
        return candidate.predictions(state, take(support, places).inputs, spec)
    parts, order = [], []
    for fold in division[places].unique():
        out = places[division[places] == fold]
        kept = division != fold
        state = candidate.adapted(take(support, kept), spec)
        parts.append(candidate.predictions(state, take(support, out).inputs, spec))
        order.append(out)
    back = torch.cat(order).argsort()  # places rise
    joined = Examples(concatenate(*parts), back, back, back)
    return take(joined, back).inputs


def _errors(predictions: Any, rows: Examples, answer: Answer) -> Tensor:
    """(n,): the error of each row."""
    if isinstance(answer, Classes):
        return calibrated_losses(predictions, rows.targets, rows.weights)
    return answer.loss(predictions, rows.targets)


def calibrated_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """(n,): -log of the probability of the class, at the factor on the logits that is best for all.

        p = (1 - FLOOR) softmax(t logits) + FLOOR / ways,     t = argmin_t sum_i w_i -log p_i

    Logits that are right in order but small cost no more than large ones, and logits that are worse
    than none cost as much as none. Reference: Guo et al. (2017), On Calibration of Modern Neural
    Networks (temperature scaling).
    """
    z, w = logits.double(), weights.double()
    z = z - z.max(-1, keepdim=True).values
    ordinary = z > -1e20  # the logits of absent classes
    spread = (z * ordinary).sum() / ordinary.sum().clamp_min(1)
    unit = -1 / spread if float(spread) < 0 else torch.ones_like(spread)
    factors = (TEMPERATURES.to(z.device) * unit).reshape(-1, 1, 1)
    log_p = -cross_entropy(factors * z, targets.expand(len(factors), -1))
    losses = -((1 - FLOOR) * log_p.exp() + FLOOR / z.shape[-1]).log()
    return losses[(losses @ w).argmin()].to(logits.dtype)
