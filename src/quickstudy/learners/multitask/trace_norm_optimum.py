"""The joint optimum of multi-task feature learning, with a bound on the distance from it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from quickstudy.learners.multitask.linear_stacks import Stack

_ROUND = 10
"""Steps of descent between two checks of the duality gap."""


def best_root(
    stacks: Sequence[Stack],
    l2: float,
    epsilon: float,
    alternations: int,
    tolerance: float,
    most_iterations: int,
) -> Tensor:
    """D^1/2 (d, d) of the joint optimum over the tasks of ``stacks``.

    Warns where the objective may be further than ``tolerance`` above the optimum at the end.
    """
    root = alternated(stacks, l2, epsilon, alternations)
    root, gap = descended(stacks, root, l2, tolerance, most_iterations)
    if gap > tolerance:
        warnings.warn(
            f"TraceNorm.learn_from: after {most_iterations} iterations the objective may be "
            f"{gap:.1e} above the optimum, in units of that at W = 0; asked was {tolerance:.1e}. "
            "Raise most_iterations or tolerance.",
            stacklevel=4,
        )
    values, vectors = torch.linalg.eigh(root @ root.mT)
    symmetric: Tensor = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.mT
    return symmetric


def alternated(stacks: Sequence[Stack], l2: float, epsilon: float, steps: int) -> Tensor:
    """D^1/2 (d, d) after ``steps`` of the paper's algorithm, from D = I / d.

    ``epsilon``  in units of the mean squared singular value of the first W.
    """
    d = stacks[0].rows.shape[-1]
    root = torch.eye(d, dtype=torch.float64) / math.sqrt(d)
    smoothing = None
    for _ in range(steps):
        w = _side_by_side([weights_of(stack, root, l2) for stack in stacks])
        if smoothing is None:
            smoothing = epsilon * w.square().sum() / d + torch.finfo(w.dtype).tiny
        values, vectors = torch.linalg.eigh(w @ w.mT)
        lengths = (values.clamp_min(0.0) + smoothing).sqrt()
        root = (vectors * (lengths / lengths.sum()).sqrt()) @ vectors.mT
    return root


def descended(
    stacks: Sequence[Stack], root: Tensor, l2: float, tolerance: float, most_iterations: int
) -> tuple[Tensor, float]:
    """A root of D near the optimum, and the duality gap there.

    With all w_t eliminated, the objective is a convex function of D,

        sum_t y_t' (I + R_t D R_t' / l2)^-1 y_t,

    here minimised over B, where D = B B' / tr(B B'), by L-BFGS (Nocedal and Wright, 2006, chapter
    7). A full-rank B keeps all directions within reach.
    """
    root = root.clone().requires_grad_()
    at_zero = max(sum(float(stack.targets.square().sum()) for stack in stacks), 1e-300)
    optimiser = torch.optim.LBFGS(
        [root], max_iter=_ROUND, history_size=20, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> float:
        value, gradient = objective_of(stacks, root.detach(), l2)
        root.grad = gradient / at_zero
        return value / at_zero

    for _ in range(0, most_iterations, _ROUND):
        gap = duality_gap(stacks, unit_trace(root.detach()), l2) / at_zero
        if gap <= tolerance:
            break
        optimiser.step(objective)
    else:
        gap = duality_gap(stacks, unit_trace(root.detach()), l2) / at_zero
    return unit_trace(root.detach()), gap


def duality_gap(stacks: Sequence[Stack], root: Tensor, l2: float) -> float:
    """How far the objective at the best W for D = root root' can be above its minimum.

    With residuals r_t = y_t - R_t w_t and G the matrix of columns R_t' r_t, every multiple s of r
    bounds the minimum from below (Fenchel duality), by

        2 s <y, r> - s^2 (|r|^2 + |G|_op^2 / l2)

    and the gap is that between |r|^2 + l2 |W|_tr^2 and the best of them; 0 at the optimum alone.
    """
    weights = [weights_of(stack, root, l2) for stack in stacks]
    residuals = [s.targets - s.rows @ w for s, w in zip(stacks, weights, strict=True)]
    pulls = [stack.rows.mT @ r for stack, r in zip(stacks, residuals, strict=True)]
    fit = sum(float((s.targets * r).sum()) for s, r in zip(stacks, residuals, strict=True))
    squares = sum(float(r.square().sum()) for r in residuals)
    largest = float(torch.linalg.matrix_norm(_side_by_side(pulls), 2))
    trace_norm = float(torch.linalg.svdvals(_side_by_side(weights)).sum())
    bound = fit**2 / max(squares + largest**2 / l2, 1e-300)
    return squares + l2 * trace_norm**2 - bound


def objective_of(stacks: Sequence[Stack], root: Tensor, l2: float) -> tuple[float, Tensor]:
    """The objective for D = B B' / tr(B B'), and its gradient in B, the ``root``."""
    unit = unit_trace(root)
    value, pulls = 0.0, []
    for rows, targets in ((stack.rows, stack.targets) for stack in stacks):
        along_root = rows @ unit
        kernel = along_root @ along_root.mT / l2
        kernel.diagonal(dim1=-2, dim2=-1).add_(1.0)
        solved = torch.linalg.solve(kernel, targets)
        value += float((targets * solved).sum())
        pulls.append(rows.mT @ solved)
    pull = _side_by_side(pulls)
    # d objective / d D = -pull pull' / l2, and D does not change with the length of B.
    gradient = -2 / l2 * pull @ (pull.mT @ unit)
    return value, (gradient - (gradient * unit).sum() * unit) / root.square().sum().sqrt()


def unit_trace(root: Tensor) -> Tensor:
    """The root of D with trace 1, for the root of any multiple of D."""
    return root / root.square().sum().sqrt()


def _side_by_side(weights: Sequence[Tensor]) -> Tensor:
    """(tasks, d, k) of every stack -> (d, columns)."""
    return torch.cat([w.movedim(1, 0).flatten(1) for w in weights], 1)


def weights_of(stack: Stack, root: Tensor, l2: float) -> Tensor:
    """(tasks, d, k): the ridge regressions of a stack along D^1/2."""
    along_root = stack.rows @ root
    kernel = along_root @ along_root.mT
    kernel.diagonal(dim1=-2, dim2=-1).add_(l2)
    weights: Tensor = root @ (along_root.mT @ torch.linalg.solve(kernel, stack.targets))
    return weights
