"""Linear heads: the optimal weight and offset for a support set, in closed form or iterated.

A head is a function (features (n, d), targets (n, outputs), row weights (n,), l2) -> (weight
(d, outputs), offset (outputs,)). Both here are differentiable in features, targets and row weights,
and batch under vmap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.learners.transfer.logistic_optimum import Minimiser, penalised


def ridge(
    features: Tensor, targets: Tensor, weights: Tensor, l2: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The exact minimiser of sum_i w_i |f_i W + b - y_i|^2 + l2 |W|^2; b is not penalised."""
    feature_mean, target_mean = _mean(features, weights), _mean(targets, weights)
    weight = ridge_weight(features - feature_mean, targets - target_mean, weights, l2)
    return weight, target_mean - feature_mean @ weight


def ridge_weight(x: Tensor, y: Tensor, weights: Tensor, l2: float | Tensor) -> Tensor:
    """The exact minimiser (d, outputs) of sum_i w_i |x_i W - y_i|^2 + l2 |W|^2, with no offset.

    Solved in the smaller of the two equivalent forms, d x d or n x n (push-through identity). The
    penalty is increased by the rounding error of the matrix (:func:`penalised`).
    """
    n, d = x.shape
    weighted = weights.unsqueeze(-1) * y
    if d <= n:
        gram = x.mT @ (weights.unsqueeze(-1) * x)
        direct: Tensor = torch.linalg.solve(penalised(gram, l2), x.mT @ weighted)
        return direct
    kernel = weights.unsqueeze(-1) * (x @ x.mT)
    dual: Tensor = torch.linalg.solve(penalised(kernel, l2), weighted)
    return x.mT @ dual


def logistic(
    features: Tensor, targets: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """The minimiser of sum_i w_i CE(softmax(f_i W + b), y_i) + l2 / 2 |W|^2; b is not penalised.

    Solved by Newton's method, each direction by preconditioned conjugate gradients (Nocedal and
    Wright, 2006, Numerical Optimization, chapter 7). Its derivative is that of the minimiser
    (implicit function theorem), so the iterations are not stored. Absent classes get weight 0. The
    offsets, which are determined up to a constant, sum to 0.

    Exact to rounding in float64 if l2 is at least 1e-6 times the variance of a feature. In float32
    the loss is then within about a tenth of the minimum, and close to it from 1e-4 on. With a
    smaller l2, on separable classes, the fit stops before the optimum.
    """
    # Centring makes weight and offset nearly independent, so that few iterations suffice.
    feature_mean = _mean(features, weights)
    # The minimiser depends on the ratio of weights and l2 alone: in this unit nothing underflows.
    unit = _unit(weights.sum().detach())
    weight, offset = Minimiser.apply(  # type: ignore[no-untyped-call]
        features - feature_mean, targets, weights / unit, l2 / unit
    )
    return weight, offset - feature_mean @ weight


def binary_logistic(
    features: Tensor, targets: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """The minimiser of sum_i w_i BCE(sigmoid(f_i v + b), y_i) + l2 / 2 |v|^2, for one column y.

    Targets are (n, 1), positive for yes; v (d, 1), b (1,). Solved as a softmax over no and yes with
    weights -v/2 and v/2, whose penalty is half as large, so ``l2`` is doubled.

    If all rows are yes, or all are no, the optimal offset would be infinite. It is then
    log((yes + 1) / (no + 1)) of the total weights (Laplace's rule of succession), and v = 0.
    """
    yes = (targets > 0).to(features.dtype)
    both = torch.cat([1 - yes, yes], -1)
    weight, offset = logistic(features, both, weights, 2 * l2)
    totals = weights @ both
    laplace = ((totals[1] + 1) / (totals[0] + 1)).log()
    offset = torch.where((totals > 0).all(), offset[1] - offset[0], laplace)
    return (weight[:, 1] - weight[:, 0]).unsqueeze(-1), offset.unsqueeze(-1)


def _mean(rows: Tensor, weights: Tensor) -> Tensor:
    """(n, k), (n,) -> (k,): the weighted mean row; 0 where all weights are 0."""
    return weights @ rows / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def _unit(total: Tensor) -> Tensor:
    """A power of two near ``total``, so that dividing by it is exact; 1 for 0."""
    exponent = total.clamp(1e-30, 1e30).log2().floor()
    return torch.where(total > 0, exponent.exp2(), 1.0)
