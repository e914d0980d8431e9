"""Linear heads: the optimal weight and offset for a support set, in closed form or iterated.

A head is a function (features (n, d), targets (n, outputs), row weights (n,), l2) -> (weight
(d, outputs), offset (outputs,)). Both here are differentiable in features, targets and row weights,
and batch under vmap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.modules import values_can_be_read
from quickstudy.tasks.examples import without_absent

NEWTON_STEPS = 20
CONJUGATE_STEPS = 20
"""Conjugate gradient steps per Newton step. Both numbers suffice in the range that :func:`logistic`
states; well-conditioned features need fewer, but under vmap no task can stop before the others."""

ADJOINT_STEPS = 80
"""Conjugate gradient steps for the derivative, which no later Newton step corrects."""

STEP_LENGTHS = 8
"""Step lengths that the line search tries: the full Newton step and its halvings."""


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
    penalty is increased by the rounding error of the matrix (:func:`_penalised`).
    """
    n, d = x.shape
    weighted = weights.unsqueeze(-1) * y
    if d <= n:
        gram = x.mT @ (weights.unsqueeze(-1) * x)
        direct: Tensor = torch.linalg.solve(_penalised(gram, l2), x.mT @ weighted)
        return direct
    kernel = weights.unsqueeze(-1) * (x @ x.mT)
    dual: Tensor = torch.linalg.solve(_penalised(kernel, l2), weighted)
    return x.mT @ dual


def _penalised(matrix: Tensor, l2: float | Tensor) -> Tensor:
    """``matrix`` with l2 and the rounding error of its trace added to the diagonal.

    For features of size 1e4 in float32, l2 = 1 is lost in rounding, and a matrix of repeated rows
    would remain singular.
    """
    rounding = torch.finfo(matrix.dtype).eps * matrix.diagonal().sum().detach()
    return matrix + (l2 + rounding) * _eye(len(matrix), matrix)


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
    weight, offset = _Minimiser.apply(  # type: ignore[no-untyped-call]
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


def _eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


class _Head(NamedTuple):
    """A weight (d, outputs) and an offset (outputs,), or a direction in their space."""

    weight: Tensor
    offset: Tensor

    def plus(self, factor: Tensor, other: _Head) -> _Head:
        return _Head(self.weight + factor * other.weight, self.offset + factor * other.offset)

    def dot(self, other: _Head) -> Tensor:
        return (self.weight * other.weight).sum() + (self.offset * other.offset).sum()


class _Problem(NamedTuple):
    """The logistic loss of x (n, d), y (n, outputs) under weights w (n,)."""

    x: Tensor
    y: Tensor
    w: Tensor
    l2: Tensor

    @property
    def present(self) -> Tensor:
        return self.w @ self.y > 0

    def centred_offset(self, offset: Tensor) -> Tensor:
        """``offset`` minus its mean over present classes, on which the loss does not depend."""
        present = self.present.to(offset.dtype)
        return present * (offset - present @ offset / present.sum().clamp_min(1))

    def logits(self, head: _Head) -> Tensor:
        return without_absent(self.x @ head.weight + head.offset, self.present)

    def loss(self, head: _Head) -> Tensor:
        log_p = self.logits(head).log_softmax(-1)
        # An absent class has a huge negative log-probability, and only targets of weight 0.
        rows = -(self.y * log_p.where(self.present, 0.0)).sum(-1)
        return self.w @ rows + self.l2 / 2 * head.weight.square().sum()

    def gradient(self, head: _Head, p: Tensor) -> _Head:
        error = self.w.unsqueeze(-1) * (p - self.y)
        return _Head(self.x.mT @ error + self.l2 * head.weight, error.sum(0))

    def gradient_terms(self) -> _Head:
        """The gradient's sums over rows with absolute values as terms, at probability 0.

        The rounding error of the gradient is this times machine precision, also where the gradient
        is 0, as for constant features.
        """
        size = self.w.unsqueeze(-1) * self.y
        return _Head(self.x.abs().mT @ size, size.sum(0))

    def hessian(self, p: Tensor, direction: _Head) -> _Head:
        """The Hessian times ``direction``, at probabilities ``p``."""
        change = self.w.unsqueeze(-1) * through_softmax(
            p, self.x @ direction.weight + direction.offset
        )
        return _Head(self.x.mT @ change + self.l2 * direction.weight, change.sum(0))


def through_softmax(p: Tensor, v: Tensor) -> Tensor:
    """(diag p - p p') v for each row: the Jacobian of the softmax times v."""
    return p * (v - (p * v).sum(-1, keepdim=True))


class _Minimiser(torch.autograd.Function):
    """Centred features, targets and weights -> the logistic head, with its implicit derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, w: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        basis = _basis(x)
        x = x @ basis
        problem = _Problem(x, y, w, l2)
        head = _Head(x.new_zeros(x.shape[1], y.shape[1]), x.new_zeros(y.shape[1]))
        terms = problem.gradient_terms()
        for _ in range(NEWTON_STEPS):
            p = problem.logits(head).softmax(-1)
            gradient = problem.gradient(head, p)
            direction = _solve(problem, p, gradient, CONJUGATE_STEPS, terms)
            if _none(direction.weight) and _none(direction.offset):
                break
            head = _line_search(problem, head, direction)
        return basis @ head.weight, head.offset

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of -<H^-1 upstream, gradient(x, y, w)>, with the head constant."""
        x, y, w, l2, weight, offset = ctx.saved_tensors
        basis = _basis(x)
        problem = _Problem(x @ basis, y, w, l2)
        p = problem.logits(_Head(basis.mT @ weight, offset)).softmax(-1)
        d_weight, d_offset = upstream
        size = _Head(basis.mT @ d_weight, d_offset)
        right = _Head(size.weight, problem.centred_offset(d_offset))
        within = _solve(problem, p, right, ADJOINT_STEPS, size)
        # Outside the span of the rows, the Hessian is that of the penalty alone.
        outside = (d_weight - basis @ right.weight) / l2
        adjoint = _Head(basis @ within.weight + outside, within.offset)
        along = x @ adjoint.weight + adjoint.offset
        weighted = w.unsqueeze(-1)
        d_x = -weighted * (through_softmax(p, along) @ weight.mT + (p - y) @ adjoint.weight.mT)
        return d_x, weighted * along, -(along * (p - y)).sum(-1), None


def _basis(x: Tensor) -> Tensor:
    """Orthonormal columns (d, min(n, d)) that span the rows of x (n, d), and so the solution.

    In this basis each class has at most n unknowns. Unlike the push-through identity, it is also
    accurate where features are large relative to the penalty.
    """
    n, d = x.shape
    return torch.linalg.qr(x.mT).Q if n < d else _eye(d, x)


def _solve(problem: _Problem, p: Tensor, right: _Head, steps: int, size: _Head) -> _Head:
    """H^-1 right by ``steps`` conjugate gradients, preconditioned by one matrix for all classes.

    Stops when the residual is below the rounding error of numbers as large as ``size``. Further
    steps would divide rounding errors by each other and end in NaN.
    """
    precondition = _Preconditioner.at(problem, p)
    solution = _Head(torch.zeros_like(right.weight), torch.zeros_like(right.offset))
    resolution = precondition.energy(size) * torch.finfo(p.dtype).eps ** 2
    residual = right
    direction = precondition(residual)
    energy = residual.dot(direction)
    unsolved = energy > resolution
    for _ in range(steps):
        if _none(unsolved):
            break
        product = problem.hessian(p, direction)
        curvature = direction.dot(product)
        unsolved = unsolved & (curvature > 0)  # not after overflow or underflow
        step = _ratio(energy, curvature, unsolved)
        solution = solution.plus(step, direction)
        residual = residual.plus(-step, product)
        preconditioned = precondition(residual)
        before, energy = energy, residual.dot(preconditioned)
        unsolved = unsolved & (energy > resolution)
        direction = preconditioned.plus(_ratio(energy, before, unsolved), direction)
    return solution


def _none(values: Tensor) -> bool:
    """Whether all are seen to be 0, so that further steps would change nothing."""
    return values_can_be_read(values) and not bool(values.any())


def _ratio(a: Tensor, b: Tensor, known: Tensor) -> Tensor:
    """a / b where ``known``, else 0."""
    return torch.where(known, a / torch.where(known, b, 1.0), 0.0)


class _Preconditioner(NamedTuple):
    """The inverse of the Hessian with the mean eigenvalue of each row's softmax Jacobian."""

    problem: _Problem
    inverse: Tensor  # (d, d), for the weight of every class
    total: Tensor  # (), the curvature of every offset

    @staticmethod
    def at(problem: _Problem, p: Tensor) -> _Preconditioner:
        """The preconditioner at probabilities ``p``."""
        x, w = problem.x, problem.w
        others = (problem.present.sum() - 1).clamp_min(1)
        curvature = w * (1 - p.square().sum(-1)) / others
        total = curvature.sum().clamp_min(torch.finfo(p.dtype).eps)
        rows = x * curvature.unsqueeze(-1)
        inverse = torch.linalg.inv(_penalised(x.mT @ rows, problem.l2))
        return _Preconditioner(problem, inverse, total)

    def __call__(self, v: _Head) -> _Head:
        return _Head(self.inverse @ v.weight, self.problem.centred_offset(v.offset) / self.total)

    def energy(self, v: _Head) -> Tensor:
        """v' inverse v, including the mean of the offsets."""
        return (v.weight * (self.inverse @ v.weight)).sum() + v.offset.square().sum() / self.total


def _line_search(problem: _Problem, head: _Head, direction: _Head) -> _Head:
    """The best of the full step, its halvings, and no step, so that the loss never increases."""
    factors = [-(0.5**k) for k in range(STEP_LENGTHS)] + [0.0]
    steps = direction.weight.new_tensor(factors)
    losses = torch.stack([problem.loss(head.plus(step, direction)) for step in steps])
    # Near the optimum all losses agree to rounding, and the full step is best.
    resolution = 8 * torch.finfo(losses.dtype).eps * losses[-1].abs()
    good = losses <= losses.min() + resolution
    return head.plus(steps[good.to(losses.dtype).argmax()], direction)
