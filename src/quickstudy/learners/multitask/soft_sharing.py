"""Soft parameter sharing: a network for each task, whose parameters are pulled together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, like
from quickstudy.backbones.norms import embed_support
from quickstudy.base.replica import call_with
from quickstudy.core import Examples, NamedExamples, State, Task, TaskSpec
from quickstudy.learners.gradient.descend import (
    Adam,
    Descent,
    Update,
    Weights,
    constant,
    gradients_of,
    last,
)
from quickstudy.learners.gradient.network import SupportLoss, predict_under
from quickstudy.learners.gradient.reach import can_be_tested, refuse_unreachable
from quickstudy.learners.multitask.base_learner import (
    MultiTaskLearner,
    named_loss,
    refuse_support_statistics,
)
from quickstudy.learners.multitask.soft_sharing_deviations import Deviations
from quickstudy.learners.multitask.stacked_parameters import Place, StackedNetworks, heads_for
from quickstudy.learners.transfer.starting_heads import StartingHead, zero_head
from quickstudy.objectives import Outcome
from quickstudy.tasks.examples import labelled

Penalty = Callable[[Weights, Weights, Place], Tensor]
"""(w_0 by name, v of all tasks (tasks, ...) by name, place of a task) -> the penalty in that task's
loss (). The mean of the losses over all tasks then has the mean of these."""

SMOOTHING = 1e-4
"""Added to singular values, as sqrt(σ² + SMOOTHING²), so that :func:`stacked_trace_norm` has a
gradient where they are 0."""


def squared_norm(start: Weights, differences: Weights, place: Place) -> Tensor:
    """|v_t|² of all parameters of the task: () (Evgeniou and Pontil, 2004)."""
    return torch.stack([v[place].square().sum() for v in differences.values()]).sum()


def stacked_trace_norm(start: Weights, differences: Weights, place: Place) -> Tensor:
    """(1/T) sum over parameters of the trace norm of w_t stacked over the T tasks: ().

    Each parameter is a matrix (tasks, entries), the sum of whose singular values is the trace norm:
    the tensor trace norm of Yang and Hospedales (2017) by the flattening of the axis of the tasks.
    """
    norms = []
    for name, v in differences.items():
        stacked = (start[name] + v).flatten(1)
        tasks, entries = stacked.shape
        gram = stacked @ stacked.mT if tasks <= entries else stacked.mT @ stacked
        squares = torch.linalg.eigvalsh(gram).clamp_min(0)
        norms.append((squares + SMOOTHING**2).sqrt().sum() / tasks)
    return torch.stack(norms).sum()


def soft_sharing_loss(learner: Any, task: Task) -> Outcome:
    """The loss of a named learner, for a known task with ``strength`` times the penalty."""
    loss, score = named_loss(learner, task)
    if not learner.knows(task):
        return Outcome(loss, score)
    named = isinstance(task.support, NamedExamples)
    place = task.support.place if named else learner.place_of(task.spec.name)
    return Outcome(loss + learner.strength * learner.penalty_at(place), score)


class SoftSharing(MultiTaskLearner):
    """Maps a task that it knows by name to a network of its own, pulled towards a common one.

        w_t     = w_0 + v_t                        all parameters of the network of task t
        predict = f_(w_t)(x)
        L       = sum_t (L_t(w_0 + v_t) + strength * penalty_t)

    With ``penalty=squared_norm``, penalty_t = |v_t|², and w_0 becomes the mean of the w_t. With
    ``penalty=stacked_trace_norm`` the penalties add up to the trace norm of each parameter of all
    networks, stacked to a matrix: networks then share few directions.

    For any other task, ``adapt`` fits v to the support set by ``steps`` steps on

        L_support(w_0 + v) + strength * (v - m)' C⁻¹ (v - m),       from v = m

    m is the mean of the known v_t. C is the identity or, with ``shrinkage`` below 1, their
    covariance, shrunk to the identity; the steps are taken in coordinates in which C is the
    identity (:class:`quickstudy.learners.multitask.soft_sharing_deviations.Deviations`).

    ``backbone``  the network f without its head: inputs (n, ...) -> features (n, d). Its parameters
                  are w_0; frozen ones are the same for all tasks.
    ``tasks``     name -> number of outputs. Where all have as many, the heads are part of w_t.
                  Where they differ, every task has a head of its own that is not pulled. Default:
                  none, so that every task is new.
    ``penalty``   :func:`squared_norm` or :func:`stacked_trace_norm`.
    ``strength``  its factor, against the mean loss of the rows of a task.
    ``shrinkage`` above 0 and at most 1: the share of the identity in C; 1, the default, for C = 1.
    ``head``, ``l2``  where the head of a new task starts, if no head is shared: by default at
                  zeros, since Adam magnifies the rounding of a probe that fits the support already.
    ``steps``, ``rate``, ``update``  of the steps for a new task.

    State: empty for a known task; for a new one the ``weights`` of its network by name, and
    ``present`` and ``statistics`` as of other gradient learners.

    In training, the steps for a new task count as constants (first order).

    Raises ValueError for numbers out of range, and where ``HardSharing`` does.

    Reference: Evgeniou and Pontil (2004), Regularized Multi-Task Learning, section 2; Yang and
    Hospedales (2017), Trace Norm Regularised Deep Multi-Task Learning.
    Differs from these in networks instead of linear machines (the first), without a penalty on w_0,
    which weight decay gives; in the smoothed trace norm of one flattening, of networks that start
    equal and have w_0 in common (the second); and in adapting to tasks that were not trained on.

    >>> import quickstudy as qs
    >>> learner = qs.SoftSharing(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    objective = staticmethod(soft_sharing_loss)
    _reach_tested = False

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        penalty: Penalty = squared_norm,
        strength: float = 0.01,
        shrinkage: float = 1.0,
        head: StartingHead = zero_head,
        l2: float = 1.0,
        steps: int = 20,
        rate: float = 0.01,
        update: Update = Adam(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self._know(tasks)
        self.backbone, self.penalty, self.strength = backbone, penalty, strength
        self.shrinkage, self.head, self.l2 = shrinkage, head, l2
        self.steps, self.rate, self.update = steps, rate, update
        self._check()
        features, widths = feature_size(backbone, "SoftSharing"), set(self.tasks.values())
        self.shared_head = self.heads = self.differences = None
        if self.tasks:
            refuse_support_statistics(backbone, "SoftSharing")
            if len(widths) == 1:
                self.shared_head = like(backbone, nn.Linear(features, widths.pop()))
            else:
                self.heads = heads_for(backbone, features, list(self.tasks.values()))
            self.differences = StackedNetworks(self._network(), len(self.tasks), zero=True)

    def penalty_at(self, place: Place) -> Tensor:
        """The penalty in the loss of the known task at ``place``: ()."""
        start = dict(self._network().named_parameters())
        moved = self._moved()
        if not moved:  # all is frozen, or nothing is shared
            return torch.zeros((), device=place.device if isinstance(place, Tensor) else None)
        return self.penalty({name: start[name] for name in moved}, moved, place)

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        network, moved = self._network(), self._moved()
        start = dict(network.named_parameters())
        weights = {name: start[name] + v[place] for name, v in moved.items()}
        outputs: Tensor = call_with(network, weights, inputs)
        return outputs if self.heads is None else self.heads(place, outputs)

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        deviations = Deviations(self._moved(), self.shrinkage)
        pulled, head = self._of_new_task(support, spec, deviations)
        support_loss = SupportLoss(self._network_for(spec), support, spec)
        if not self._reach_tested and can_be_tested():
            refuse_unreachable(support_loss, pulled | head, "SoftSharing")
            self._reach_tested = True
        loss = _PulledLoss(support_loss, pulled, head, deviations, self.strength)
        zeros = {name: torch.zeros_like(weight) for name, weight in (pulled | head).items()}
        descent = Descent(self.steps, self.rate, self.update)
        u = last(descent.along(constant(gradients_of(loss)), zeros))
        return support_loss.state(loss.weights(u))

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        predictions: Tensor = predict_under(self._network_for(spec), state, inputs, spec)
        return predictions

    def _of_new_task(
        self, support: Examples, spec: TaskSpec, deviations: Deviations
    ) -> tuple[Weights, Weights]:
        """The weights w_0 + m from which a new task starts, and those of its head if not shared."""
        pulled = {
            name: deviations.shifted(name, parameter)
            for name, parameter in self._network().named_parameters()
            if parameter.requires_grad or not self._trained
        }
        if self.shared_head is not None and self.shared_head.out_features == spec.outputs:
            return pulled, {}
        body = {name: weight for name, weight in pulled.items() if name.startswith(_BODY)}
        plain = {name.removeprefix(_BODY): weight for name, weight in body.items()}
        rows = labelled(support, spec.answer)
        features, _ = embed_support(lambda inputs: call_with(self.backbone, plain, inputs), rows)
        weight, bias = self.head(features, rows, spec, self.l2)
        return body, {"head.weight": weight, "head.bias": bias}

    @property
    def _trained(self) -> bool:
        """Whether any parameter is trained; of a learner that is frozen as a whole, all adapt."""
        return any(p.requires_grad for p in self.parameters())

    def _network(self) -> nn.Module:
        """The network whose parameters are w_0: the backbone and, where it is shared, the head."""
        return _Headed(self.backbone, self.shared_head)

    def _network_for(self, spec: TaskSpec) -> nn.Module:
        """The network of a new task, whose head has no values of its own."""
        size = feature_size(self.backbone, "SoftSharing")
        return _Headed(self.backbone, _EmptyHead(size, spec.outputs))

    def _moved(self) -> Weights:
        """v of the known tasks, (tasks, ...) by the names of w_0."""
        stacks = self.differences
        return {} if stacks is None else {name: stacks.stack_of(name) for name in stacks.names}

    def _check(self) -> None:
        if self.steps < 0:
            raise ValueError(f"SoftSharing: steps must be at least 0; found {self.steps}.")
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"SoftSharing: strength must be a number of at least 0; found {self.strength}."
            )
        if not 0 < self.shrinkage <= 1:
            raise ValueError(
                f"SoftSharing: shrinkage must be above 0 and at most 1; found {self.shrinkage}."
            )
        for name in ("rate", "l2"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"SoftSharing: {name} must be a positive number; found {value}.")


_BODY = "backbone."
"""Prefix of the names of the backbone's parameters in the whole network."""


class _Headed(nn.Module):
    """A backbone under a linear head; features without one."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, inputs: Any) -> Tensor:
        features: Tensor = self.backbone(inputs)
        return features if self.head is None else self.head(features)


class _EmptyHead(nn.Module):
    """A linear layer without values; torch's draws random ones, which ``vmap`` refuses."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, features, device="meta"))
        self.bias = nn.Parameter(torch.empty(outputs, device="meta"))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class _PulledLoss:
    """u -> the support loss at ``weights(u)``, with strength * |u|² of what is ``pulled``.

    ``head``  a head of the new task alone, which is not pulled.
    """

    def __init__(
        self, loss: SupportLoss, pulled: Weights, head: Weights, deviations: Deviations,
        strength: float,
    ) -> None:  # fmt: skip
        self.loss, self.pulled, self.head = loss, pulled, head
        self.deviations, self.strength = deviations, strength
        self.requires_grad = False  # the steps are constants

    def weights(self, u: Weights) -> Weights:
        """start + C^(1/2) u, by name."""
        start, moved = self.pulled | self.head, self.deviations.scaled(u)
        return {name: start[name] + moved[name] for name in start}

    def __call__(self, u: Weights) -> Tensor:
        loss = self.loss(self.weights(u))
        squares = [u[name].square().sum() for name in self.pulled]
        return loss + self.strength * torch.stack(squares).sum() if squares else loss
