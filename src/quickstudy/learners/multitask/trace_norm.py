"""Multi-task feature learning: directions of feature space that all tasks share (trace norm)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.multitask.linear_rows import (
    Linear,
    LinearRows,
    linear_predictions,
    linear_state,
    read_support,
    read_tasks,
)
from quickstudy.learners.multitask.linear_stacks import (
    Stack,
    best_setting,
    listed,
    stacked,
)
from quickstudy.learners.multitask.trace_norm_optimum import best_root, unit_trace, weights_of
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
    from, a task has the joint optimum. Offsets have no penalty. Before anything is learnt,
    D = I / d, and ``adapt`` is a ridge regression with penalty l2 * d.

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
    bounds the distance from the optimum (the duality gap), and in how that is reached: with a
    small epsilon the alternating algorithm all but stops while directions that it made small are
    still needed, with a large one it ends elsewhere. So a few of its steps are followed by descent
    on the same objective (``trace_norm_optimum.descended``).

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
        ``l2``         a new penalty, or several, of which the one is chosen that predicts best:
                       the rows of each task are dealt to ``folds`` folds at random (``seed``), and
                       each fold is predicted from the others. Mean squared error over all rows; of
                       a tie, the first. None for the value that it has.
        ``epsilon``    of the paper: D = (W W' + e I)^1/2 / trace, which keeps D invertible. Here in
                       units of the mean squared singular value of the first W.
        ``alternations``  steps of the paper's algorithm, before those of descent.
        ``tolerance``  the iterations stop where the objective is at most so far above the optimum,
                       in units of the objective at W = 0.
        ``most_iterations``  of descent, after which it stops, with a warning.

        The backbone stays as it is. Computed in float64. Raises ValueError for what
        :func:`read_tasks` refuses, and for numbers that are not positive. Warns of a single task.
        """
        penalties = [float(self.log_l2.detach().exp())] if l2 is None else listed(l2)
        if not penalties or min(*penalties, epsilon, tolerance, most_iterations) <= 0:
            raise ValueError(
                "TraceNorm.learn_from: needs positive l2, epsilon, tolerance and most_iterations; "
                f"found {l2}, {epsilon}, {tolerance} and {most_iterations}. Leave them out for "
                "their defaults."
            )
        tasks = read_tasks(self, self.backbone, named, specs)

        def root_for(penalty: float, stacks: Sequence[Stack]) -> Tensor:
            settings = (epsilon, alternations, tolerance, most_iterations)
            return best_root(stacks, penalty, *settings)

        def fit(penalty: float, stacks: Sequence[Stack]) -> list[Tensor]:
            root = root_for(penalty, stacks)
            return [weights_of(stack, root, penalty) for stack in stacks]

        chosen = penalties[0]
        if len(penalties) > 1:
            chosen = best_setting(penalties, tasks, fit, False, folds, seed)
        with torch.no_grad():
            self.root.copy_(root_for(chosen, stacked(tasks)))
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
        return unit_trace(self.root)


def along(rows: LinearRows, root: Tensor, l2: Tensor | float) -> Linear:
    """The weight and offset of one task under the penalty l2 w' D^-1 w, where D = root root'."""
    weight, offset = fitted(
        lambda f, y, w, _: ridge(f, y, w, l2),
        rows.features @ root, rows.encoded, rows.counts, rows.answer, 0.0,
    )  # fmt: skip
    return root @ weight, offset
