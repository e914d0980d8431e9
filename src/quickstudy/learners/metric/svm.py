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
"""Newton steps at most. Half as many often do, but under vmap no task can stop early."""

REACHED = 1.1
"""Stop below this multiple of the least product of slack and price; further steps only round."""

REFINEMENTS = 3
"""Last steps, which carry the derivative. One would do but for :data:`FLOOR` and for rounding."""

FLOOR = 1e-9
"""Added to the Jacobian, next to the squared length of rows: it is singular where more variables
are free than there are features. Steps from exact residuals end at the same point all the same."""

TO_THE_WALL = 0.99
"""Greatest share of the distance to the nearest bound that a step may take."""

LEAST = 1e-15
"""Products of slack and price below this share of C are rounding: the steps aim no lower."""


def crammer_singer(features: Tensor, targets: Tensor, weights: Tensor, C: float) -> Tensor:
    """The weight (d, classes) that minimises |W|^2 / 2 + C sum_i w_i xi_i.

    xi_i = max_k (f_i W_k + [k != y_i]) - f_i W_{y_i}, over the classes that have weight: features
    (n, d), one-hot targets (n, classes), weights (n,). Classes without rows of weight get 0.

    Solved as the dual quadratic program, by a primal-dual interior-point method in float64:

        min_A  tr(A' F F' A) / 2 - sum(A * Y)   where  A <= C w Y,  sum_k A_ik = 0;   W = F' A

    Its derivative is that of the optimum (implicit function theorem): a Newton step that is taken
    at the solution, with a constant Jacobian, moves with the data as the solution does.

    Reference: Crammer and Singer (2001), On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines; Nocedal and Wright (2006), Numerical Optimization, section 16.6.
    """
    x, y, w = features.double(), targets.double(), weights.double()
    problem = _Problem(x @ x.mT, y, C * w.unsqueeze(-1) * y, _counted(y, w))
    fixed = _Problem(*(value.detach() for value in problem))
    point = _start(fixed)
    least = torch.as_tensor(LEAST * C, dtype=x.dtype, device=x.device)
    for _ in range(STEPS):
        if _reached(fixed, point, least):
            break
        point = _towards_optimum(fixed, point, least)
    jacobian = _Jacobian.at(fixed, point)
    for _ in range(REFINEMENTS):
        point = point.moved(1.0, _newton(problem, point, jacobian, least))
    return (x.mT @ point.dual).to(features.dtype)


class _Problem(NamedTuple):
    gram: Tensor  # (n, n)
    y: Tensor  # (n, classes)
    bound: Tensor  # (n, classes), what the dual variables may not exceed
    counted: Tensor  # (n, classes), 0 for rows and classes without weight, whose variables are 0


class _Point(NamedTuple):
    """Dual variables, multipliers of their bounds, and multipliers of the sums: or a step."""

    dual: Tensor  # (n, classes)
    price: Tensor  # (n, classes), positive
    level: Tensor  # (n,)

    def moved(self, length: Tensor | float, step: _Point) -> _Point:
        return _Point(*(a + length * b for a, b in zip(self, step, strict=True)))


def _counted(y: Tensor, w: Tensor) -> Tensor:
    """1 for the variables of rows with weight and classes with weight, else 0."""
    return ((w > 0).unsqueeze(-1) & (w @ y > 0)).to(y.dtype)


def _start(problem: _Problem) -> _Point:
    """Well inside the bounds, with sums of 0."""
    caps = problem.bound.sum(-1, keepdim=True)
    others = problem.counted.sum(-1, keepdim=True) - 1
    # Where features are large the variables end far below their bounds, near 1 / |f|^2.
    size = caps / 2 / (1 + caps * _size(problem))
    dual = torch.where(others > 0, size, 0.0) * problem.counted
    dual = dual * (problem.y - (1 - problem.y) / others.clamp_min(1))
    return _Point(dual, torch.ones_like(dual), torch.zeros_like(dual[:, 0]))


def _size(problem: _Problem) -> Tensor:
    """The mean squared length of the rows that count."""
    rows = problem.counted.amax(-1)
    return rows @ problem.gram.diagonal() / rows.sum().clamp_min(1)


def _slack(problem: _Problem, point: _Point) -> Tensor:
    """The distance to the bounds; 1 for variables that do not count."""
    return torch.where(problem.counted > 0, problem.bound - point.dual, 1.0)


def _product(problem: _Problem, point: _Point) -> Tensor:
    """The mean of slack times price."""
    products = problem.counted * _slack(problem, point) * point.price
    return products.sum() / problem.counted.sum().clamp_min(1)


def _reached(problem: _Problem, point: _Point, least: Tensor) -> bool:
    """Whether the optimum is reached; False on GPUs and under vmap, where values are not read."""
    if least.device.type != "cpu" or in_torch_func() or needs_plain_operators():
        return False
    return bool(_product(problem, point) <= REACHED * least)


def _towards_optimum(problem: _Problem, point: _Point, least: Tensor) -> _Point:
    """One step of Mehrotra's predictor and corrector, which share a Jacobian."""
    jacobian = _Jacobian.at(problem, point)
    straight = _newton(problem, point, jacobian, torch.zeros_like(least))
    there = point.moved(_longest(problem, point, straight), straight)
    now = _product(problem, point)
    # Where going straight for 0 gets far, little centring is needed.
    aim = (now * (_product(problem, there) / now) ** 3).clamp_min(least)
    bend = straight.dual * straight.price  # minus what the products' linear model left out
    step = _newton(problem, point, jacobian, aim + bend.clamp(-now, now))
    return point.moved(_longest(problem, point, step), step)


class _Jacobian(NamedTuple):
    """The linear system of a Newton step: one per class, coupled only by the sums of rows."""

    slack: Tensor  # (n, classes)
    price: Tensor  # (n, classes)
    inverses: Tensor  # (classes, n, n)
    together: Tensor  # (n, n)

    @staticmethod
    def at(problem: _Problem, point: _Point) -> _Jacobian:
        counted = problem.counted
        slack = _slack(problem, point)
        curvature = point.price / slack + FLOOR * _size(problem)
        diagonal = torch.where(counted > 0, curvature, 1.0).mT
        both = counted.mT.unsqueeze(-1) * counted.mT.unsqueeze(-2)
        inverses = both * _inverse(both * problem.gram + torch.diag_embed(diagonal))
        lone = (counted.sum(-1) == 0).to(counted.dtype)
        together = _inverse(inverses.sum(0) + torch.diag_embed(lone))
        return _Jacobian(slack, point.price, inverses, together)

    def solve(self, right: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The dual variables (n, classes) and levels (n,) for the right-hand sides."""
        alone = torch.einsum("kij,jk->ik", self.inverses, right)
        level = self.together @ (alone.sum(-1) - sums)
        return alone - torch.einsum("kij,j->ik", self.inverses, level), level


def _newton(problem: _Problem, point: _Point, jacobian: _Jacobian, aim: Tensor) -> _Point:
    """The step to where gradient and sums vanish and slack times price is ``aim``."""
    excess = (aim - _slack(problem, point) * point.price) / jacobian.slack
    gradient = problem.gram @ point.dual - problem.y + point.level.unsqueeze(-1) + point.price
    right = -problem.counted * (gradient + excess)
    dual, level = jacobian.solve(right, -point.dual.sum(-1))
    price = problem.counted * (excess + jacobian.price * dual / jacobian.slack)
    return _Point(dual, price, level)


def _inverse(matrices: Tensor) -> Tensor:
    """Of positive definite matrices (..., n, n), whose diagonals differ by many decades."""
    scale = matrices.diagonal(dim1=-2, dim2=-1).rsqrt()
    both = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return both * torch.cholesky_inverse(torch.linalg.cholesky_ex(both * matrices).L)


def _longest(problem: _Problem, point: _Point, step: _Point) -> Tensor:
    """The longest step, up to 1, that keeps slacks and prices positive."""
    counted = problem.counted > 0
    shrinking = torch.maximum(
        torch.where(counted, step.dual / _slack(problem, point), 0.0),
        torch.where(counted, -step.price / point.price, 0.0),
    )
    return (TO_THE_WALL / shrinking.amax().clamp_min(TO_THE_WALL)).clamp_max(1.0)
