"""Mean-regularised multi-task learning: a shared weight, and a deviation from it for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_sizes
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
from quickstudy.learners.multitask.mean_regularised_optimum import Shared, shared_by, weights_of
from quickstudy.learners.outputs import refuse_more_outputs
from quickstudy.learners.transfer.heads import ridge, ridge_weight
from quickstudy.learners.transfer.linear_probe import fitted


class MeanRegularised(Learner):
    """Maps a support set to a ridge regression that is pulled to a weight shared by all tasks.

        w_t, b_t = argmin  sum_i k_i |f(x_i) w + b - y_i|^2 + l2 |w - w0|^2       (adapt)
        w0       = argmin  sum_t min_(w, b) (the same) + l2_shared |w0|^2         (learn_from)

    k_i are row weights. Together these are the joint optimum over w0 and all v_t = w_t - w0 of
    sum_t L_t(w0 + v_t) + l2 sum_t |v_t|^2 + l2_shared |w0|^2. :meth:`learn_from` finds w0 in closed
    form. Every task, also one that was not there before, is then adapted by the same formula, so
    the learner reads no names: adapted to the rows that it learnt from, a task has the joint
    optimum. With ``l2`` near 0 tasks are fitted alone, with a large one they share one weight.

    Classes are regressed on 0 and 1 and labels on -1 and 1, each output with its own column of w0:
    output k must mean the same in every task.

    ``backbone``   inputs (n, ...) -> features (n, d); ``qs.backbones.Features(d)`` for inputs that
                   are features already. It declares d.
    ``outputs``    the most outputs of a task.
    ``l2``         penalty on deviations from w0, against a sum (not mean) of squared errors. The
                   initial value: :meth:`learn_from` can choose it, and training by ``fit`` learns
                   it, as a logarithm, together with w0 and the backbone.
    ``l2_offset``  penalty on deviations of the offsets from a shared one, b0, which has none:
                   |f(x_i) w + b - y_i|^2 + … + l2_offset (b - b0)^2. For tasks with few rows, whose
                   own mean is uncertain. None, the default, for offsets of their own without
                   penalty.
    ``scale``      factor on the predictions for classes and labels, too close together for a
                   softmax; default 10.

    State: ``weight`` (d, outputs), ``offset`` (outputs,); ``present`` (ways,) for classification;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for a backbone with a head, with maps or
    without declared features, and for tasks with more outputs.

    Reference: Evgeniou and Pontil (2004), Regularized Multi-Task Learning, sections 2 and 3.
    Differs from the paper in the loss, which is a hinge there, so that the optimum is in closed
    form; in penalties for a sum over tasks (the paper's lambda_1 is l2 times the number of tasks,
    its lambda_2 is l2_shared); and in offsets, which the paper has as the weight of a constant
    feature: ``l2_offset=l2`` is that, but for the penalty that b0 has there.

    >>> import torch, quickstudy as qs
    >>> x = torch.randn(2, 20, 3)
    >>> schools = {"A": qs.examples(x[0], x[0] @ torch.ones(3, 1)),
    ...            "B": qs.examples(x[1], x[1] @ torch.tensor([[1.0], [1.0], [2.0]]))}
    >>> learner = qs.MeanRegularised(qs.backbones.Features(3))
    >>> _ = learner.learn_from(schools, qs.regression(), l2=[0.1, 1.0, 10.0])
    >>> new = qs.examples([[0.0, 0.0, 1.0]], [[1.5]])
    >>> learner(new, qs.regression())(x[0]).shape
    torch.Size([20, 1])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    exceptions: ClassVar[Mapping[str, str]] = {
        "relabelling_permutes_outputs": "the shared weight has a column for each output",
    }

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int = 1,
        l2: float = 1.0,
        l2_offset: float | None = None,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        refuse_sizes("MeanRegularised", outputs=outputs)
        if not (l2 > 0 and scale > 0 and (l2_offset is None or l2_offset > 0)):
            raise ValueError(
                "MeanRegularised: l2, l2_offset and scale must be positive; found "
                f"l2={l2}, l2_offset={l2_offset}, scale={scale}. Leave l2_offset out for offsets "
                "without penalty."
            )
        self.backbone, self.outputs, self.l2, self.l2_offset, self.scale = (
            backbone, outputs, l2, l2_offset, scale,
        )  # fmt: skip
        d = feature_size(backbone, "MeanRegularised")
        self.weight = nn.Parameter(like(backbone, torch.zeros(d, outputs)))
        self.log_l2 = nn.Parameter(like(backbone, torch.tensor(math.log(l2))))
        self.offset: nn.Parameter | None = None
        self.log_l2_offset: nn.Parameter | None = None
        if l2_offset is not None:
            self.offset = nn.Parameter(like(backbone, torch.zeros(outputs)))
            self.log_l2_offset = nn.Parameter(like(backbone, torch.tensor(math.log(l2_offset))))

    def learn_from(
        self,
        named: Mapping[str, Examples],
        specs: Mapping[str, TaskSpec] | TaskSpec | None = None,
        *,
        l2: float | Sequence[float] | None = None,
        l2_offset: float | Sequence[float] | None = None,
        l2_shared: float = 0.0,
        folds: int = 5,
        seed: int = 0,
    ) -> Self:
        """Set the shared weight (and offset) to the joint optimum over tasks; returns the learner.

        ``named``      the rows of each task by name.
        ``specs``      their specs by name, or one for all; None for tasks that have their own, as
                       those of ``qs.tasks.domains``.
        ``l2``, ``l2_offset``  new values, or several from which the combination is chosen that
                       predicts best: the rows of each task are dealt to ``folds`` folds at random
                       (``seed``), and each fold is predicted from the others. Mean squared error
                       over all rows; of a tie, the first. None for the values that they have.
        ``l2_shared``  the penalty on w0, 0 by default. Where the rows of all tasks together do not
                       determine w0, it is then the least one.

        The backbone stays as it is. Computed in float64, in memory for a (d, d) matrix for each
        output. Raises ValueError for what :func:`read_tasks` refuses, for numbers that are not
        positive, and for ``l2_offset`` where the learner has none. Warns of a single task.
        """
        settings = self._settings(l2, l2_offset, l2_shared)
        tasks = read_tasks(self, self.backbone, named, specs)
        for task in tasks:
            refuse_more_outputs("MeanRegularised", TaskSpec(task.answer), self.outputs)

        def fit(setting: tuple[float, float | None], stacks: Sequence[Stack]) -> list[Tensor]:
            shared = shared_by(stacks, self.outputs, *setting, l2_shared)
            return [weights_of(stack, shared) for stack in stacks]

        chosen, with_ones = settings[0], self.offset is not None
        if len(settings) > 1:
            chosen = best_setting(settings, tasks, fit, with_ones, folds, seed)
        shared = shared_by(stacked(tasks, with_ones), self.outputs, *chosen, l2_shared)
        with torch.no_grad():
            self.weight.copy_(shared.weight)
            self.log_l2.fill_(math.log(chosen[0]))
            if self.offset is not None and self.log_l2_offset is not None:
                self.offset.copy_(shared.offset)  # type: ignore[arg-type]
                self.log_l2_offset.fill_(math.log(chosen[1] or 1.0))
        return self

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weight and offset of the task of ``support``."""
        refuse_more_outputs("MeanRegularised", spec, self.outputs)
        rows, statistics = read_support(self.backbone, support, spec)
        offset, penalty = self.offset, self.log_l2_offset
        # Not `penalty and …`: the logarithm of 1 is 0, which is no truth.
        l2_offset = None if penalty is None else penalty.exp()
        shared = Shared(self.weight, offset, self.log_l2.exp(), l2_offset)
        return linear_state(deviating(rows, shared), rows, statistics)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        return linear_predictions(self.backbone, state, inputs, spec.answer, self.scale)

    def _settings(
        self,
        l2: float | Sequence[float] | None,
        l2_offset: float | Sequence[float] | None,
        l2_shared: float,
    ) -> list[tuple[float, float | None]]:
        """All combinations of the penalties to try, in order."""
        who = "MeanRegularised.learn_from"
        if l2_offset is not None and self.log_l2_offset is None:
            raise ValueError(
                f"{who}: l2_offset={l2_offset} needs offsets with a penalty, but this learner's "
                "have none. Make it with MeanRegularised(..., l2_offset=1.0)."
            )
        pulls = [float(self.log_l2.detach().exp())] if l2 is None else listed(l2)
        offsets: list[float | None] = [None]
        if self.log_l2_offset is not None:
            now = float(self.log_l2_offset.detach().exp())
            offsets = [*([now] if l2_offset is None else listed(l2_offset))]
        penalties = [*pulls, *(o for o in offsets if o is not None)]
        if not (pulls and offsets and min(penalties) > 0 and l2_shared >= 0):
            raise ValueError(
                f"{who}: needs l2 > 0, l2_offset > 0 and l2_shared >= 0; found l2={l2}, "
                f"l2_offset={l2_offset}, l2_shared={l2_shared}. Give positive numbers."
            )
        return [(pull, offset) for pull in pulls for offset in offsets]


def deviating(rows: LinearRows, shared: Shared) -> Linear:
    """The weight and offset of one task, pulled to the shared ones.

    Differentiable in all tensors. Fitted to what the shared weight leaves of the targets, so that
    the penalty is one on the fitted weight, as in a ridge regression.
    """
    outputs = rows.encoded.shape[1]
    weight, l2 = shared.weight[:, :outputs], shared.l2
    if shared.offset is None or shared.l2_offset is None:
        residuals = rows.encoded - rows.features @ weight
        more, offset = fitted(
            lambda f, y, w, _: ridge(f, y, w, l2),
            rows.features, residuals, rows.counts, rows.answer, 0.0,
        )  # fmt: skip
        return weight + more, offset
    start = shared.offset[:outputs]
    residuals = rows.encoded - rows.features @ weight - start
    # A constant column of this size turns the penalty l2 on its weight into l2_offset.
    size = torch.as_tensor(l2 / shared.l2_offset, dtype=weight.dtype).sqrt()

    def with_column(f: Tensor, y: Tensor, w: Tensor, _: float) -> Linear:
        both = ridge_weight(torch.cat([f, size.expand(len(f), 1)], 1), y, w, l2)
        return both[:-1], size * both[-1]

    more, offset = fitted(
        with_column, rows.features, residuals, rows.counts, rows.answer, 0.0
    )  # fmt: skip
    return weight + more, start + offset
