"""LogME: how well a Bayesian linear model on given features explains the targets, by its evidence.

    y ~ N(F m, 1/β),  m ~ N(0, 1/α)     evidence p(y | F, α, β) = N(y; 0, 1/β + F F' / α)
    LogME = max over α, β of  log p(y | F, α, β) / n,  the mean over the columns of y

Both published ways to the maximum are here. They iterate the same two equations,

    γ = sum_i β σ_i / (α + β σ_i),     α <- γ / |m|^2,     β <- (n - γ) / |F m - y|^2

with σ the eigenvalues of F'F, and differ in what a step costs: :func:`log_me_2021` computes m
(d,) and F m in every step, :func:`log_me` needs as many numbers as F has rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.answers.classes import one_hot

STEPS = 300
"""Most steps; ten often suffice, but α of features that say nothing grows without end."""

TOLERANCE = 1e-8
"""Stop when α/β of every column changes by a smaller share."""

_LEAST = 1e-12
"""The least squared error and squared weight, as shares of |y|^2: with neither error nor weight
the evidence has no maximum. The papers' code adds 1e-5 to both, whatever the unit of y."""

Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""α, β (k,) -> |m|^2 and |F m - y|^2 (k,), for each column of y."""


def log_me(features: Tensor, targets: Tensor) -> float:
    """The maximal log evidence per row of a linear model on ``features``; higher is better.

        x = U'y,  with F = U S V' (thin),  σ = S^2,   t = α / β
        |m|^2 = sum_i σ_i x_i^2 / (t + σ_i)^2,   |F m - y|^2 = sum_i x_i^2 / (1 + σ_i / t)^2 + rest

    ``features``  (n, d).
    ``targets``   (n,) class ids, fitted as one column of zeros and ones for each class that occurs,
                  or (n, k) reals.

    Computed in float64. Features are neither centred nor scaled: the papers' model has no offset.

    Raises ValueError for fewer than 2 classes, and for rows that do not fit.

    Reference: You, Liu, Zhang, Wang, Jordan and Long (2022), Ranking and Tuning Pre-trained Models:
    A New Paradigm for Exploiting Model Hubs, JMLR 23 (the fixed point). Differs from it in the
    number of steps, and in what keeps the evidence of targets finite that are fitted exactly.

    >>> import torch
    >>> from quickstudy.evaluation.log_evidence import log_me
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> log_me(x, torch.tensor([0, 0, 1, 1])) > log_me(x, torch.tensor([0, 1, 0, 1]))
    True
    """
    f, y = _prepared(features, targets)
    u, s, _ = torch.linalg.svd(f, full_matrices=False)
    kept = s > s.max() * max(f.shape) * torch.finfo(f.dtype).eps
    sigma = s[kept].square().unsqueeze(1)
    squares = (u[:, kept].mT @ y).square()
    rest = (y.square().sum(0) - squares.sum(0)).clamp_min(0)

    def terms(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        t = alpha / beta
        weight = (sigma * squares / (t + sigma).square()).sum(0)
        return weight, (squares / (1 + sigma / t).square()).sum(0) + rest

    return _maximal_evidence(y, sigma, terms)


def log_me_2021(features: Tensor, targets: Tensor) -> float:
    """The value of :func:`log_me`, by the steps of the first paper; slower where d is large.

        m = β (α + β F'F)^-1 F'y,  by the eigenvectors of F'F (d, d)

    Reference: You, Liu, Wang and Long (2021), LogME: Practical Assessment of Pre-trained Models for
    Transfer Learning, ICML, algorithm 1. Differs from it as :func:`log_me` does from its own.
    """
    f, y = _prepared(features, targets)
    eigenvalues, vectors = torch.linalg.eigh(f.mT @ f)
    kept = eigenvalues > eigenvalues.max() * max(f.shape) * torch.finfo(f.dtype).eps
    sigma, v = eigenvalues[kept].unsqueeze(1), vectors[:, kept]
    projected = v.mT @ (f.mT @ y)

    def terms(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        m = v @ (beta * projected / (alpha + beta * sigma))
        return m.square().sum(0), (f @ m - y).square().sum(0)

    return _maximal_evidence(y, sigma, terms)


def _prepared(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, d) and the columns to fit (n, k), in float64."""
    if features.ndim != 2 or len(features) != len(targets) or not len(features):
        raise ValueError(
            f"LogME: needs features (n, d) with as many targets; found {tuple(features.shape)} and "
            f"{tuple(targets.shape)}. Flatten the features of each row."
        )
    refuse_not_finite(features, "LogME")
    if targets.is_floating_point():
        refuse_not_finite(targets, "LogME")
        return features.double(), targets.reshape(len(targets), -1).double()
    present, ids = targets.unique(return_inverse=True)
    if len(present) < 2:
        raise ValueError(
            f"LogME: needs rows of at least 2 classes; found {len(present)}. Add rows of another."
        )
    return features.double(), one_hot(ids, len(present), torch.float64)


def refuse_not_finite(numbers: Tensor, who: str) -> None:
    """ValueError for NaN or infinity."""
    if not bool(numbers.isfinite().all()):
        raise ValueError(
            f"{who}: features and targets must be finite; found NaN or infinity. Scale the inputs, "
            "and leave out rows with unknown targets."
        )


def _maximal_evidence(y: Tensor, sigma: Tensor, terms: Terms) -> float:
    """The evidence per row at the fixed point, from α = β = 1; the mean over the columns of y."""
    n = len(y)
    least = _LEAST * y.square().sum(0).clamp_min(torch.finfo(y.dtype).tiny)
    alpha = beta = torch.ones_like(least)
    for _ in range(STEPS):
        gamma = (beta * sigma / (alpha + beta * sigma)).sum(0)
        weight, error = (torch.maximum(part, least) for part in terms(alpha, beta))
        # Without any feature (γ = 0) there is no weight, and α does not matter.
        after = torch.where(gamma > 0, gamma / weight, alpha), (n - gamma) / error
        change = (after[0] / after[1]) / (alpha / beta) - 1
        alpha, beta = after
        if bool((change.abs() < TOLERANCE).all()):
            break
    weight, error = terms(alpha, beta)
    logs = (alpha / (alpha + beta * sigma)).log().sum(0) + n * beta.log()
    evidence = logs - alpha * weight - beta * error - n * math.log(2 * math.pi)
    return float(evidence.mean()) / 2 / n
