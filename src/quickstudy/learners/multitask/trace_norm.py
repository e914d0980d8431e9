"""Multi-task feature learning: directions of feature space that all tasks share (trace norm)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.multitask.linear_tasks import (
    Linear,
    LinearRows,
    best_setting,
    linear_predictions,
    linear_state,
    listed,
    read_support,
    read_tasks,
    reduced,
)
from quickstudy.learners.transfer.heads import ridge
from quickstudy.learners.transfer.linear_probe import fitted


class TraceNorm(Learner):
    """Maps a support set to a ridge regression whose penalty was learnt from many tasks.

        w_t, b_t = argmin  sum_i k_i |f(x_i) w + b - y_i|^2 + l2 w' D^-1 w        (adapt)
        D        = (W W')^1/2 / tr (W W')^1/2                                     (learn_from)

    k_i are row weights; the columns of W (d, columns) are the weights of all outputs of all tasks,
    and D is positive with trace 1. Directions in which the tasks differ much cost little, and those
    that none uses cannot be used. :meth:`learn_from` alternates the two lines, and ends by descent
    on D. The joint optimum is that of a convex problem with a penalty on the trace norm, the sum of
    singular values, which keeps the rank of W low:

        min over W and offsets:   sum_t L_t(w_t, b_t) + l2 |W|_tr^2

    Every task, also one that was not there before, is adapted by the first line, a ridge regression
    on the features f(x) D^1/2, so the learner reads no names; adapted to the rows that it learnt
    from, a task has the joint optimum. Offsets have no penalty. Before anything is learnt D = I / d,
    and ``adapt`` is a ridge regression with penalty l2 * d.

    Classes are regressed on 0 and 1, labels on -1 and 1.

    ``backbone``  inputs (n, ...) -> features (n, d); ``qs.backbones.Features(d)`` for inputs that
                  are features already. It declares d.
    ``l2``        the penalty, the paper's gamma, against a sum (not mean) of squared errors. The
                  initial value: :meth:`learn_from` can choose it, and training by ``fit`` learns
                  it, as a logarithm, together with D and the backbone.
    ``scale``     factor on the predictions for classes and labels, too close together for a
                  softmax; default 10.

    State: ``weight`` (d, outputs), ``offset`` (outputs,); ``present`` (ways,) for classification;
    ``statistics`` for norm="support". D = root root' / tr(root root') of the parameter ``root``.

    Raises ValueError for numbers that are not positive, and for a backbone with a head, with maps
    or without declared features.

    Reference: Argyriou, Evgeniou and Pontil (2008), Convex Multi-Task Feature Learning: equations
    9 and 17, algorithm 1.
    Differs from the paper in offsets without penalty, in row weights, in a stopping rule that
    bounds the distance from the optimum (:func:`duality_gap`), and in how that is reached: with a
    small epsilon the alternating algorithm all but stops while directions that it made small are
    still needed, with a large one it ends elsewhere. So a few of its steps are followed by descent
    on the same objective (:func:`descended`).

    >>> import torch, quickstudy as qs
    >>> x, one = torch.randn(3, 20, 4), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    >>> tasks = {name: qs.examples(x[i], (i + 1) * x[i] @ one) for i, name in enumerate("ABC")}
    >>> learner = qs.TraceNorm(qs.backbones.Features(4))
    >>> _ = learner.learn_from(tasks, qs.regression(), l2=[0.01, 1.0])
    >>> learner.directions().diagonal().argmax()
    tensor(0)
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)

    def __init__(self, backbone: nn.Module, l2: float = 1.0, scale: float = 10.0) -> None:
        super().__init__()
        if not (l2 > 0 and scale > 0):
            raise ValueError(
                f"TraceNorm: l2 and scale must be positive; found l2={l2}, scale={scale}."
            )
        self.backbone, self.l2, self.scale = backbone, l2, scale
        d = feature_size(backbone, "TraceNorm")
        self.root = nn.Parameter(like(backbone, torch.eye(d) / math.sqrt(d)))
        self.log_l2 = nn.Parameter(like(backbone, torch.tensor(math.log(l2))))

    def directions(self) -> Tensor:
        """D (d, d), positive with trace 1."""
        root = self._root()
        return root @ root.mT

    def learn_from(
        self,
        named: Mapping[str, Examples],
        specs: Mapping[str, TaskSpec] | TaskSpec | None = None,
        *,
        l2: float | Sequence[float] | None = None,
        epsilon: float = 1e-3,
        alternations: int = 10,
        tolerance: float = 1e-5,
        most_iterations: int = 500,
        folds: int = 5,
        seed: int = 0,
    ) -> Self:
        """Set D to the joint optimum over the tasks; returns the learner.

        ``named``      the rows of each task by name.
        ``specs``      their specs by name, or one for all; None for tasks that have their own, as
                       those of ``qs.tasks.domains``.
        ``l2``         a new penalty, or several from which the one is chosen that predicts best: the
                       rows of each task are dealt to ``folds`` folds at random (``seed``), and each
                       fold is predicted from the others. Mean squared error over all rows; of a
                       tie, the first. None for the value that it has.
        ``epsilon``    of the paper: D = (W W' + e I)^1/2 / trace, which keeps D invertible. Here in
                       units of the mean squared singular value of the first W.
        ``alternations``  steps of the paper's algorithm, before those of :func:`descended`.
        ``tolerance``  the iterations stop where the objective is at most so far above the optimum,
                       in units of the objective at W = 0 (:func:`duality_gap`).
        ``most_iterations``  of descent, after which it stops, with a warning.

        The backbone stays as it is. Computed in float64. Raises ValueError for what
        :func:`read_tasks` refuses, and for numbers that are not positive. Warns of a single task.
        """
        penalties = [float(self.log_l2.exp())] if l2 is None else listed(l2)
        if not penalties or min(*penalties, epsilon, tolerance, most_iterations) <= 0:
            raise ValueError(
                "TraceNorm.learn_from: needs positive l2, epsilon, tolerance and most_iterations; "
                f"found {l2}, {epsilon}, {tolerance} and {most_iterations}. Leave them out for "
                "their defaults."
            )
        tasks = read_tasks(self, self.backbone, named, specs)

        def root_for(penalty: float, rest: Sequence[LinearRows]) -> Tensor:
            return best_root(rest, penalty, epsilon, alternations, tolerance, most_iterations)

        def fit(penalty: float, rest: Sequence[LinearRows]) -> list[Linear]:
            root = root_for(penalty, rest)
            return [along(task, root, penalty) for task in rest]

        chosen = penalties[0]
        if len(penalties) > 1:
            chosen, _ = best_setting(penalties, tasks, fit, folds, seed)
        with torch.no_grad():
            self.root.copy_(root_for(chosen, tasks))
            self.log_l2.fill_(math.log(chosen))
        return self

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weight and offset of the task of ``support``."""
        rows, statistics = read_support(self.backbone, support, spec)
        return linear_state(along(rows, self._root(), self.log_l2.exp()), rows, statistics)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        return linear_predictions(self.backbone, state, inputs, spec.answer, self.scale)

    def _root(self) -> Tensor:
        return _unit_trace(self.root)


def along(rows: LinearRows, root: Tensor, l2: Tensor | float) -> Linear:
    """The weight and offset of one task under the penalty l2 w' D^-1 w, where D = root root'."""
    weight, offset = fitted(
        lambda f, y, w, _: ridge(f, y, w, l2),
        rows.features @ root, rows.encoded, rows.counts, rows.answer, 0.0,
    )  # fmt: skip
    return root @ weight, offset


_ROUND = 10
"""Steps of descent between two checks of the duality gap."""


class Stack(NamedTuple):
    """Reduced tasks of one size: rows (tasks, m, d) and targets (tasks, m, k)."""

    rows: Tensor
    targets: Tensor


def stacked(tasks: Sequence[LinearRows]) -> list[Stack]:
    """The tasks, centred and reduced, in stacks of equal size."""
    by_size: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
    for task in tasks:
        for part in reduced(task, with_ones=False):
            size = (len(part.rows), part.targets.shape[1])
            by_size.setdefault(size, []).append((part.rows, part.targets))
    return [Stack(*map(torch.stack, zip(*parts, strict=True))) for parts in by_size.values()]


def best_root(
    tasks: Sequence[LinearRows],
    l2: float,
    epsilon: float,
    alternations: int,
    tolerance: float,
    most_iterations: int,
) -> Tensor:
    """D^1/2 (d, d) of the joint optimum over the tasks.

    Warns where the objective may be further than ``tolerance`` above the optimum at the end.
    """
    stacks = stacked(tasks)
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
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.mT


def alternated(stacks: Sequence[Stack], l2: float, epsilon: float, steps: int) -> Tensor:
    """D^1/2 (d, d) after ``steps`` of the paper's algorithm, from D = I / d.

    ``epsilon``  in units of the mean squared singular value of the first W.
    """
    d = stacks[0].rows.shape[-1]
    root = torch.eye(d, dtype=torch.float64) / math.sqrt(d)
    smoothing = None
    for _ in range(steps):
        w = _side_by_side([_weights(stack, root, l2) for stack in stacks])
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

    def objective() -> Tensor:
        optimiser.zero_grad()
        whole = sum(_objective(stack, _unit_trace(root), l2) for stack in stacks) / at_zero
        assert isinstance(whole, Tensor)
        whole.backward()  # type: ignore[no-untyped-call]
        return whole.detach()

    for _ in range(0, most_iterations, _ROUND):
        gap = duality_gap(stacks, _unit_trace(root.detach()), l2) / at_zero
        if gap <= tolerance:
            break
        with torch.enable_grad():
            optimiser.step(objective)
    else:
        gap = duality_gap(stacks, _unit_trace(root.detach()), l2) / at_zero
    return _unit_trace(root.detach()), gap


def duality_gap(stacks: Sequence[Stack], root: Tensor, l2: float) -> float:
    """How far the objective at the best W for D = root root' can be above its minimum.

    With residuals r_t = y_t - R_t w_t and G the matrix of columns R_t' r_t, every multiple s of r
    bounds the minimum from below (Fenchel duality), by

        2 s <y, r> - s^2 (|r|^2 + |G|_op^2 / l2)

    and the gap is that between |r|^2 + l2 |W|_tr^2 and the best of them; 0 at the optimum alone.
    """
    weights = [_weights(stack, root, l2) for stack in stacks]
    residuals = [s.targets - s.rows @ w for s, w in zip(stacks, weights, strict=True)]
    pulls = [stack.rows.mT @ r for stack, r in zip(stacks, residuals, strict=True)]
    fit = sum(float((s.targets * r).sum()) for s, r in zip(stacks, residuals, strict=True))
    squares = sum(float(r.square().sum()) for r in residuals)
    largest = float(torch.linalg.matrix_norm(_side_by_side(pulls), 2))
    trace_norm = float(torch.linalg.svdvals(_side_by_side(weights)).sum())
    bound = fit**2 / max(squares + largest**2 / l2, 1e-300)
    return squares + l2 * trace_norm**2 - bound


def _objective(stack: Stack, root: Tensor, l2: float) -> Tensor:
    along_root = stack.rows @ root
    kernel = along_root @ along_root.mT / l2
    solved = torch.linalg.solve(kernel + torch.eye(kernel.shape[-1]).to(kernel), stack.targets)
    return (stack.targets * solved).sum()


def _unit_trace(root: Tensor) -> Tensor:
    """The root of D with trace 1, for the root of any multiple of D."""
    return root / root.square().sum().sqrt()


def _side_by_side(weights: Sequence[Tensor]) -> Tensor:
    """(tasks, d, k) of every stack -> (d, columns)."""
    return torch.cat([w.movedim(1, 0).flatten(1) for w in weights], 1)


def _weights(stack: Stack, root: Tensor, l2: float) -> Tensor:
    """(tasks, d, k): the ridge regressions of a stack along D^1/2."""
    along_root = stack.rows @ root
    kernel = along_root @ along_root.mT
    kernel.diagonal(dim1=-2, dim2=-1).add_(l2)
    return root @ (along_root.mT @ torch.linalg.solve(kernel, stack.targets))
