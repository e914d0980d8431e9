"""The multi-class linear support vector machine, solved to its optimum and differentiable.

Solves one problem of fixed shapes, so that vmap can batch it. Only the number of steps depends on
data, and only if a single problem is solved.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.base.modules import in_torch_func, needs_plain_operators

STEPS = 24
"""Most Newton steps that are taken. Half often suffice, but under vmap no task stops early."""

STOP_FACTOR = 1.1
"""Stop when the complementarity is below this multiple of its target; the rest is rounding."""

REFINEMENTS = 3
"""Final Newton steps, through which the derivative passes. In exact arithmetic one would suffice;
the others correct for rounding and :data:`REGULARISATION`."""

REGULARISATION = 1e-9
"""Added to the diagonal of the Jacobian, relative to the mean squared length of rows, because it is
singular where more variables are free than there are features. It does not change the solution,
since the residuals are exact."""

BOUNDARY_FRACTION = 0.99
"""Largest fraction of the distance to the nearest bound that a step may take."""

TARGET = 1e-15
"""Target of the complementarity, relative to C; smaller values would be rounding errors."""


def crammer_singer(features: Tensor, targets: Tensor, weights: Tensor, C: float) -> Tensor:
    """The weight (d, classes) that minimises |W|^2 / 2 + C sum_i w_i xi_i.

    xi_i = max_k (f_i W_k + [k != y_i]) - f_i W_{y_i}, over the classes that have weight: features
    (n, d), one-hot targets (n, classes), weights (n,). Classes without rows of weight get 0.

    Solved as the dual quadratic program, by a primal-dual interior-point method in float64:

        min_A  tr(A' F F' A) / 2 - sum(A * Y)   where  A <= C w Y,  sum_k A_ik = 0;   W = F' A

    The derivative is that of the optimum (implicit function theorem): a Newton step at the
    solution, with a constant Jacobian, has the same derivative with respect to the data.

    Reference: Crammer and Singer (2001), On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines; Nocedal and Wright (2006), Numerical Optimization, section 16.6.
    """
    x, y, w = features.double(), targets.double(), weights.double()
    problem = _Problem(x @ x.mT, y, C * w.unsqueeze(-1) * y, _mask(y, w))
    constant = _Problem(*(value.detach() for value in problem))
    point = _start(constant)
    target = torch.as_tensor(TARGET * C, dtype=x.dtype, device=x.device)
    for _ in range(STEPS):
        if _converged(constant, point, target):
            break
        point = _mehrotra_step(constant, point, target)
    jacobian = _Jacobian.at(constant, point)
    for _ in range(REFINEMENTS):
        point = point.moved(1.0, _newton(problem, point, jacobian, target))
    return (x.mT @ point.dual).to(features.dtype)


class _Problem(NamedTuple):
    gram: Tensor  # (n, n)
    y: Tensor  # (n, classes)
    bound: Tensor  # (n, classes), upper bounds of the dual variables
    mask: Tensor  # (n, classes), 0 for rows and classes without weight, whose variables are 0


class _Point(NamedTuple):
    """A point of the iteration, or a step: dual variables and the multipliers of constraints."""

    dual: Tensor  # (n, classes)
    multiplier: Tensor  # (n, classes), positive, of the bounds
    sum_multiplier: Tensor  # (n,), of the constraints that each row sums to 0

    def moved(self, length: Tensor | float, step: _Point) -> _Point:
        return _Point(*(a + length * b for a, b in zip(self, step, strict=True)))


def _mask(y: Tensor, w: Tensor) -> Tensor:
    """1 for the variables of rows and classes with weight, else 0."""
    return ((w > 0).unsqueeze(-1) & (w @ y > 0)).to(y.dtype)


def _start(problem: _Problem) -> _Point:
    """A point inside the bounds, whose rows sum to 0."""
    caps = problem.bound.sum(-1, keepdim=True)
    others = problem.mask.sum(-1, keepdim=True) - 1
    # With large features, the optimal variables are far below their bounds, near 1 / |f|^2.
    size = caps / 2 / (1 + caps * _mean_square(problem))
    dual = torch.where(others > 0, size, 0.0) * problem.mask
    dual = dual * (problem.y - (1 - problem.y) / others.clamp_min(1))
    return _Point(dual, torch.ones_like(dual), torch.zeros_like(dual[:, 0]))


def _mean_square(problem: _Problem) -> Tensor:
    """The mean squared length of the rows with weight."""
    rows = problem.mask.amax(-1)
    return rows @ problem.gram.diagonal() / rows.sum().clamp_min(1)


def _slack(problem: _Problem, point: _Point) -> Tensor:
    """The distance to the bounds; 1 for masked variables."""
    return torch.where(problem.mask > 0, problem.bound - point.dual, 1.0)


def _complementarity(problem: _Problem, point: _Point) -> Tensor:
    """The mean of slack times multiplier, which is 0 at the optimum."""
    products = problem.mask * _slack(problem, point) * point.multiplier
    return products.sum() / problem.mask.sum().clamp_min(1)


def _converged(problem: _Problem, point: _Point, target: Tensor) -> bool:
    """Whether the optimum is reached; False on GPUs and under vmap, where values are not read."""
    if target.device.type != "cpu" or in_torch_func() or needs_plain_operators():
        return False
    return bool(_complementarity(problem, point) <= STOP_FACTOR * target)


def _mehrotra_step(problem: _Problem, point: _Point, target: Tensor) -> _Point:
    """One step of Mehrotra's predictor-corrector method."""
    jacobian = _Jacobian.at(problem, point)
    predictor = _newton(problem, point, jacobian, torch.zeros_like(target))
    predicted = point.moved(_step_length(problem, point, predictor), predictor)
    now = _complementarity(problem, point)
    # The closer the predictor comes to 0, the less centring is needed.
    centring = (now * (_complementarity(problem, predicted) / now) ** 3).clamp_min(target)
    second_order = predictor.dual * predictor.multiplier  # minus the error of the linear model
    step = _newton(problem, point, jacobian, centring + second_order.clamp(-now, now))
    return point.moved(_step_length(problem, point, step), step)


class _Jacobian(NamedTuple):
    """The linear systems of a Newton step, one per class, coupled by the constraints on sums."""

    slack: Tensor  # (n, classes)
    multiplier: Tensor  # (n, classes)
    inverses: Tensor  # (classes, n, n)
    schur_inverse: Tensor  # (n, n), of the Schur complement of the constraints on sums

    @staticmethod
    def at(problem: _Problem, point: _Point) -> _Jacobian:
        mask = problem.mask
        slack = _slack(problem, point)
        curvature = point.multiplier / slack + REGULARISATION * _mean_square(problem)
        diagonal = torch.where(mask > 0, curvature, 1.0).mT
        both = mask.mT.unsqueeze(-1) * mask.mT.unsqueeze(-2)
        inverses = both * _inverse(both * problem.gram + torch.diag_embed(diagonal))
        masked_rows = (mask.sum(-1) == 0).to(mask.dtype)
        schur_inverse = _inverse(inverses.sum(0) + torch.diag_embed(masked_rows))
        return _Jacobian(slack, point.multiplier, inverses, schur_inverse)

    def solve(self, right: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Dual variables (n, classes) and sum multipliers (n,) for these right-hand sides."""
        uncoupled = torch.einsum("kij,jk->ik", self.inverses, right)
        sum_multiplier = self.schur_inverse @ (uncoupled.sum(-1) - sums)
        coupling = torch.einsum("kij,j->ik", self.inverses, sum_multiplier)
        return uncoupled - coupling, sum_multiplier


def _newton(problem: _Problem, point: _Point, jacobian: _Jacobian, target: Tensor) -> _Point:
    """The step to gradient 0, sums of 0, and ``target`` as slack times multiplier."""
    excess = (target - _slack(problem, point) * point.multiplier) / jacobian.slack
    gradient = problem.gram @ point.dual - problem.y
    gradient = gradient + point.sum_multiplier.unsqueeze(-1) + point.multiplier
    right = -problem.mask * (gradient + excess)
    dual, sum_multiplier = jacobian.solve(right, -point.dual.sum(-1))
    multiplier = problem.mask * (excess + jacobian.multiplier * dual / jacobian.slack)
    return _Point(dual, multiplier, sum_multiplier)


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses of positive definite matrices (..., n, n) with diagonals of very different size."""
    scale = matrices.diagonal(dim1=-2, dim2=-1).rsqrt()
    both = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return both * torch.cholesky_inverse(torch.linalg.cholesky_ex(both * matrices).L)


def _step_length(problem: _Problem, point: _Point, step: _Point) -> Tensor:
    """The largest length, up to 1, for which slacks and multipliers remain positive."""
    mask = problem.mask > 0
    decrease = torch.maximum(
        torch.where(mask, step.dual / _slack(problem, point), 0.0),
        torch.where(mask, -step.multiplier / point.multiplier, 0.0),
    )
    return (BOUNDARY_FRACTION / decrease.amax().clamp_min(BOUNDARY_FRACTION)).clamp_max(1.0)
