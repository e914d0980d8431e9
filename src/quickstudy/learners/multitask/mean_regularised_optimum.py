"""The joint optimum of mean-regularised multi-task learning: the weight that all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.learners.multitask.linear_stacks import Stack


class Shared(NamedTuple):
    """What all tasks have in common.

    ``weight``     w0 (d, outputs).
    ``offset``     b0 (outputs,); None where every task has an offset without penalty.
    ``l2``         the penalty on deviations from the weight.
    ``l2_offset``  the penalty on deviations from the offset; None with the offset.
    """

    weight: Tensor
    offset: Tensor | None
    l2: Tensor | float
    l2_offset: Tensor | float | None


def shared_by(
    stacks: Sequence[Stack],
    outputs: int,
    l2: float,
    l2_offset: float | None,
    l2_shared: float = 0.0,
) -> Shared:
    """The shared weight (and offset) of the joint optimum over the tasks, in closed form.

    With R_t the rows of a task, P the diagonal penalty and v_t eliminated, the objective is

        sum_t (y_t - R_t u)' (I + R_t P^-1 R_t')^-1 (y_t - R_t u) + l2_shared |w0|^2

    over u = (w0, b0): a generalised least squares problem, well-conditioned for small and large P.
    """
    size = stacks[0].rows.shape[-1]
    d = size if l2_offset is None else size - 1
    penalty = torch.full((size,), l2_shared, dtype=torch.float64)
    penalty[d:] = 0.0
    matrix = penalty.diag().repeat(outputs, 1, 1)
    right = matrix.new_zeros(outputs, size)
    for stack in stacks:
        solved = _solved(stack, _spread(stack, l2, l2_offset), stack.rows, stack.targets)
        both = (stack.rows.mT @ solved).sum(0)
        matrix[stack.outputs] += both[:, :size]
        right[stack.outputs] += both[:, size:].mT
    best = _least_solution(matrix, right).mT
    if l2_offset is None:
        return Shared(best, None, l2, None)
    return Shared(best[:d], best[d], l2, l2_offset)


def weights_of(stack: Stack, shared: Shared) -> Tensor:
    """(tasks, d, k), or d + 1 with the offset: the tasks' weights w0 + v_t, given the shared ones.

    v_t = P^-1 R_t' (I + R_t P^-1 R_t')^-1 (y_t - R_t u)
    """
    start = shared.weight[:, stack.outputs]
    if shared.offset is not None:
        start = torch.cat([start, shared.offset[stack.outputs].unsqueeze(0)])
    spread = _spread(stack, shared.l2, shared.l2_offset)
    residuals = stack.targets - stack.rows @ start
    return start + spread.unsqueeze(-1) * (stack.rows.mT @ _solved(stack, spread, residuals))


def _spread(stack: Stack, l2: Tensor | float, l2_offset: Tensor | float | None) -> Tensor:
    """The diagonal of P^-1."""
    spread = torch.full((stack.rows.shape[-1],), 1 / float(l2), dtype=torch.float64)
    if l2_offset is not None:
        spread[-1] = 1 / float(l2_offset)
    return spread


def _solved(stack: Stack, spread: Tensor, *columns: Tensor) -> Tensor:
    """(I + R_t P^-1 R_t')^-1 times the ``columns`` (tasks, m, …), side by side."""
    covariance = (stack.rows * spread) @ stack.rows.mT
    covariance.diagonal(dim1=-2, dim2=-1).add_(1.0)
    solved: Tensor = torch.linalg.solve(covariance, torch.cat(columns, -1))
    return solved


def _least_solution(matrix: Tensor, right: Tensor) -> Tensor:
    """(k, p, p), (k, p) -> (k, p): the solution, the shortest where there are many."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    rounding = values[:, -1:] * values.shape[1] * torch.finfo(values.dtype).eps
    inverse = torch.where(values > rounding, 1 / values.where(values > rounding, 1.0), 0.0)
    along = (vectors.mT @ right.unsqueeze(-1)).squeeze(-1)
    least: Tensor = (vectors @ (inverse * along).unsqueeze(-1)).squeeze(-1)
    return least
