"""The minimiser of the penalised logistic loss, of one task or of a stack of tasks at once.

Shapes are those of one task; any dimensions may stand before them, so that the tasks of a stack are
solved together and end when the last one is done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.modules import values_can_be_read
from quickstudy.tasks.examples import without_absent

NEWTON_STEPS = 20
CONJUGATE_STEPS = 20
"""Conjugate gradient steps per Newton step. Both numbers suffice in the range that
:func:`quickstudy.learners.transfer.heads.logistic` states; well-conditioned features need fewer."""

ADJOINT_STEPS = 80
"""Conjugate gradient steps for the derivative, which no later Newton step corrects."""

STEP_LENGTHS = 8
"""Step lengths that the line search tries: the full Newton step and its halvings."""

FORCING = 0.1
"""The share of a gradient's energy that may remain in the first Newton step; in later ones as much
less as their gradient is smaller. What remains is left to the next step, at less cost."""


class _Head(NamedTuple):
    """A weight (d, outputs) and an offset (outputs,), or a direction in their space."""

    weight: Tensor
    offset: Tensor

    def plus(self, factor: Tensor, other: _Head) -> _Head:
        return _Head(
            self.weight + _column(factor).unsqueeze(-1) * other.weight,
            self.offset + _column(factor) * other.offset,
        )

    def dot(self, other: _Head) -> Tensor:
        of_weights = (self.weight * other.weight).sum((-2, -1))
        return of_weights + (self.offset * other.offset).sum(-1)


class _Problem(NamedTuple):
    """The logistic loss of x (n, d), y (n, outputs) under weights w (n,)."""

    x: Tensor
    y: Tensor
    w: Tensor
    l2: Tensor
    present: Tensor
    """(outputs,): the classes with a row of positive weight."""

    @staticmethod
    def of(x: Tensor, y: Tensor, w: Tensor, l2: Tensor) -> _Problem:
        return _Problem(x, y, w, l2, (_column(w) * y).sum(-2) > 0)

    def centred_offset(self, offset: Tensor) -> Tensor:
        """``offset`` minus its mean over present classes, on which the loss does not depend."""
        present = self.present.to(offset.dtype)
        mean = (present * offset).sum(-1) / present.sum(-1).clamp_min(1)
        return present * (offset - _column(mean))

    def scores(self, head: _Head) -> Tensor:
        """(n, outputs), linear in ``head``."""
        return _times(self.x, head.weight) + head.offset.unsqueeze(-2)

    def logits(self, scores: Tensor) -> Tensor:
        return without_absent(scores, self.present.unsqueeze(-2))

    def loss(self, scores: Tensor, weight: Tensor) -> Tensor:
        log_p = self.logits(scores).log_softmax(-1)
        # An absent class has a huge negative log-probability, and only targets of weight 0.
        rows = -(self.y * log_p.where(self.present.unsqueeze(-2), 0.0)).sum(-1)
        return (self.w * rows).sum(-1) + self.l2 / 2 * weight.square().sum((-2, -1))

    def gradient(self, head: _Head, p: Tensor) -> _Head:
        error = _column(self.w) * (p - self.y)
        return _Head(_times(self.x.mT, error) + self._penalty(head.weight), error.sum(-2))

    def gradient_terms(self) -> _Head:
        """The gradient's sums over rows with absolute values as terms, at probability 0.

        The rounding error of the gradient is this times machine precision, also where the gradient
        is 0, as for constant features.
        """
        size = _column(self.w) * self.y
        return _Head(self.x.abs().mT @ size, size.sum(-2))

    def hessian(self, p: Tensor, direction: _Head) -> _Head:
        """The Hessian times ``direction``, at probabilities ``p``."""
        change = _column(self.w) * through_softmax(p, self.scores(direction))
        return _Head(_times(self.x.mT, change) + self._penalty(direction.weight), change.sum(-2))

    def _penalty(self, weight: Tensor) -> Tensor:
        return _column(self.l2).unsqueeze(-1) * weight


def through_softmax(p: Tensor, v: Tensor) -> Tensor:
    """(diag p - p p') v for each row: the Jacobian of the softmax times v."""
    return p * (v - (p * v).sum(-1, keepdim=True))


class Minimiser(torch.autograd.Function):
    """Centred features, targets, weights and l2 -> the head, with its implicit derivative."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, w: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (d, outputs) and offset (outputs,) at the minimum."""
        basis = _basis(x)
        problem = _Problem.of(x @ basis, y, w, l2)
        size = problem.x.shape[-1], y.shape[-1]
        stack = x.shape[:-2]
        head = _Head(x.new_zeros(*stack, *size), x.new_zeros(*stack, size[-1]))
        terms, scores = problem.gradient_terms(), problem.scores(head)
        first = None
        for _ in range(NEWTON_STEPS):
            p = problem.logits(scores).softmax(-1)
            gradient = problem.gradient(head, p)
            precondition = _Preconditioner.at(problem, p)
            start = precondition(gradient)
            energy = gradient.dot(start)
            first = energy if first is None else first
            enough = FORCING * energy * _ratio(energy, first, first > 0).clamp(0, 1)
            direction = _solve(
                problem, p, precondition, gradient, start, CONJUGATE_STEPS, terms, enough
            )
            if _none(direction.weight) and _none(direction.offset):
                break
            head, scores = _line_search(problem, head, scores, direction)
        return basis @ head.weight, head.offset

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keep what the derivative needs."""
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of -<H^-1 upstream, gradient(x, y, w)>, with the head constant."""
        x, y, w, l2, weight, offset = ctx.saved_tensors
        basis = _basis(x)
        problem = _Problem.of(x @ basis, y, w, l2)
        p = problem.logits(problem.scores(_Head(basis.mT @ weight, offset))).softmax(-1)
        d_weight, d_offset = upstream
        size = _Head(basis.mT @ d_weight, d_offset)
        right = _Head(size.weight, problem.centred_offset(d_offset))
        precondition = _Preconditioner.at(problem, p)
        within = _solve(problem, p, precondition, right, precondition(right), ADJOINT_STEPS, size)
        # Outside the span of the rows, the Hessian is that of the penalty alone.
        outside = (d_weight - basis @ right.weight) / _column(l2).unsqueeze(-1)
        adjoint = _Head(basis @ within.weight + outside, within.offset)
        along = x @ adjoint.weight + adjoint.offset.unsqueeze(-2)
        weighted = _column(w)
        d_x = -weighted * (through_softmax(p, along) @ weight.mT + (p - y) @ adjoint.weight.mT)
        return d_x, weighted * along, -(along * (p - y)).sum(-1), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """All tasks of a stack together, so that they may end before the last step."""
        stacked = [
            each.expand(info.batch_size, *each.shape) if dim is None else each.movedim(dim, 0)
            for each, dim in zip(inputs, in_dims, strict=True)
        ]
        return Minimiser.apply(*stacked), (0, 0)  # type: ignore[no-untyped-call]


def _times(matrix: Tensor, columns: Tensor) -> Tensor:
    """``matrix @ columns``, as rows from the left: 3 to 6 times as fast with few outputs."""
    return (columns.mT @ matrix.mT).mT


def _column(values: Tensor) -> Tensor:
    return values.unsqueeze(-1)


def _basis(x: Tensor) -> Tensor:
    """Orthonormal columns (d, min(n, d)) that span the rows of x (n, d), and so the solution.

    In this basis each class has at most n unknowns. Unlike the push-through identity, it is also
    accurate where features are large relative to the penalty.
    """
    n, d = x.shape[-2:]
    return torch.linalg.qr(x.mT).Q if n < d else torch.eye(d, dtype=x.dtype, device=x.device)


def _solve(
    problem: _Problem, p: Tensor, precondition: _Preconditioner, right: _Head, start: _Head,
    steps: int, size: _Head, enough: Tensor | None = None,
) -> _Head:  # fmt: skip
    """H^-1 right by ``steps`` conjugate gradients, preconditioned by one matrix for all classes.

    Stops when the residual is below the rounding error of numbers as large as ``size``. Further
    steps would divide rounding errors by each other and end in NaN.

    ``start``   ``right`` after ``precondition``, the first direction.
    ``enough``  the energy of the residual at which it stops, where rounding does not stop it.
    """
    solution = _Head(torch.zeros_like(right.weight), torch.zeros_like(right.offset))
    resolution = precondition.energy(size) * torch.finfo(p.dtype).eps ** 2
    residual, direction = right, start
    energy = residual.dot(direction)
    unsolved = energy > resolution
    if enough is not None:
        resolution = resolution.maximum(enough)
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
        others = (problem.present.sum(-1) - 1).clamp_min(1)
        curvature = w * (1 - p.square().sum(-1)) / _column(others)
        total = curvature.sum(-1).clamp_min(torch.finfo(p.dtype).eps)
        rows = x * _column(curvature)
        inverse = torch.linalg.inv(penalised(x.mT @ rows, problem.l2))
        return _Preconditioner(problem, inverse, total)

    def __call__(self, v: _Head) -> _Head:
        offset = self.problem.centred_offset(v.offset) / _column(self.total)
        return _Head(_times(self.inverse, v.weight), offset)

    def energy(self, v: _Head) -> Tensor:
        """v' inverse v, including the mean of the offsets."""
        of_weights = (v.weight * _times(self.inverse, v.weight)).sum((-2, -1))
        return of_weights + v.offset.square().sum(-1) / self.total


def penalised(matrix: Tensor, l2: float | Tensor) -> Tensor:
    """``matrix`` (k, k) with l2 and the rounding error of its trace added to the diagonal.

    For features of size 1e4 in float32, l2 = 1 is lost in rounding, and a matrix of repeated rows
    would remain singular.
    """
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1).detach()
    added = l2 + torch.finfo(matrix.dtype).eps * trace
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + _column(_column(added)) * eye


def _line_search(
    problem: _Problem, head: _Head, scores: Tensor, direction: _Head
) -> tuple[_Head, Tensor]:
    """The best of the full step, its halvings, and no step, so that the loss never increases.

    Also the scores there, which are linear in the step.
    """
    factors = [-(0.5**k) for k in range(STEP_LENGTHS)] + [0.0]
    steps = scores.new_tensor(factors)
    along = problem.scores(direction)
    losses = torch.stack([
        problem.loss(scores + step * along, head.weight + step * direction.weight) for step in steps
    ])  # fmt: skip
    # Near the optimum all losses agree to rounding, and the full step is best.
    resolution = 8 * torch.finfo(losses.dtype).eps * losses[-1].abs()
    good = losses <= losses.amin(0) + resolution
    step = steps[good.to(losses.dtype).argmax(0)]
    return head.plus(step, direction), scores + _column(_column(step)) * along
