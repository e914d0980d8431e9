"""Calibration: whether predicted probabilities match observed frequencies, and a temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COOLEST, HOTTEST = 0.01, 100.0
"""The range in which a temperature is looked for."""


def calibration_error(
    confidence: Tensor, right: Tensor, weights: Tensor | None = None, bins: int = 15
) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal bins.

    ``confidence`` (n,) highest probability per row; ``right`` (n,) 1 where it is the true class's;
    ``weights`` (n,) of the rows, ones by default.
    Reference: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3.
    """
    weights = torch.ones_like(confidence) if weights is None else weights
    bin_of = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device)
    gaps.index_add_(0, bin_of, weights * (confidence - right.to(confidence.dtype)))
    return float(gaps.abs().sum() / weights.sum())


def error_at(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """The calibration error of softmax(logits / temperature): (n, ways), (n,) ids."""
    confidence, chosen = (logits.double() / temperature).softmax(-1).max(-1)
    return calibration_error(confidence, chosen == targets)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T for which the mean -log softmax(logits / T)[target] is least.

    ``logits`` (n, ways); ``targets`` (n,) ids. One number, found on its logarithm between 0.01 and
    100: the loss has one minimum, since it is convex in 1 / T. Rows whose class has no probability
    at all are left out, because no temperature changes that.

    Reference: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 9.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    possible = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1) > -1e20
    logits, targets = logits[possible], targets[possible]
    if not len(targets):
        return 1.0

    def loss(log_temperature: float) -> float:
        logs = (logits / math.exp(log_temperature)).log_softmax(-1)
        return -float(logs.gather(1, targets.unsqueeze(1)).mean())

    bounds = (math.log(COOLEST), math.log(HOTTEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def temperature_of(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """A temperature from the rows of several tasks, or 1 where it does not help.

    Tasks are dealt into two halves. A temperature is fitted on each, and lowers the calibration
    error of the other half or not. Where both do, the one of the first half is returned; otherwise,
    and with fewer than 2 tasks, 1. So no returned temperature raises the error of rows that it was
    not fitted on, and chance must agree twice to return one that does not help.

    ``logits`` of each task (n_k, ways_k); ``targets`` (n_k,) ids.
    """
    if len(targets) < 2:
        return 1.0
    wide = max(each.shape[1] for each in logits)
    one, other = (
        (torch.cat([_widened(each, wide) for each in logits[start::2]]),
         torch.cat(list(targets[start::2])))
        for start in (0, 1)
    )  # fmt: skip
    first, second = fit_temperature(*one), fit_temperature(*other)
    helps = error_at(*other, first) < error_at(*other) and error_at(*one, second) < error_at(*one)
    return first if helps else 1.0


def _widened(logits: Tensor, ways: int) -> Tensor:
    """(n, ways), where classes that a task has not get no probability."""
    missing = logits.new_full((len(logits), ways - logits.shape[1]), -1e30)
    return torch.cat([logits, missing], 1)
