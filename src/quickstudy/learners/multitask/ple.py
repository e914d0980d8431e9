"""Progressive layered extraction: experts of each task and shared ones, in several levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.multitask.base_learner import MultiTaskLearner, refuse_support_statistics
from quickstudy.learners.multitask.gated_experts import (
    Gate,
    GateFit,
    StackedGates,
    fit_gated_head,
    mixture,
    predict_gated,
)
from quickstudy.learners.multitask.perceptrons import Perceptrons, checked_widths
from quickstudy.learners.multitask.stacked_parameters import Place, heads_for
from quickstudy.tasks.examples import labelled


class PLE(MultiTaskLearner):
    """Maps a task that it knows by name to that task's stream through its own and shared experts.

        s_t <- sum_k g_t(s_t)_k [own experts of t at s_t; shared experts at s]_k      in every level
        s   <- sum_k g(s)_k [own experts of all tasks u at s_u; shared experts at s]_k
        y_t = h_t(s_t)                                        for the task of name t, after the last

    All streams start as z = backbone(x), and the last level has no shared stream. A gate g is a
    softmax linear in its stream. With ``levels=1`` this is the paper's customized gate control,
    CGC: a task then reads no expert of another.

    For any other task, ``adapt`` fits a gate and a linear head to the support set. This gate mixes
    all experts of the last level, those of known tasks and the shared ones, as the gate of the
    shared stream does at the levels before; it starts with equal shares
    (:func:`quickstudy.learners.multitask.gated_experts.fit_gated_head`).

    ``backbone``  what the first level reads: inputs (n, ...) -> features (n, d). For the paper's
                  model on vectors it leaves the inputs as they are: ``backbones.Features``.
    ``tasks``     name -> number of outputs; they may differ. Default: none, so that every task is
                  new, and all experts are shared ones.
    ``shared``, ``own``  number of shared experts, and of experts of each task, at every level.
    ``hidden``    widths of the layers of an expert, each followed by a ReLU.
    ``levels``    number of levels.
    ``tower``     widths of the hidden layers of h_t before its linear layer; none by default.
    ``steps``, ``rate``  of the gate of a new task; the rate has no unit.
    ``l2``, ``scale``    of the head of a new task, as in ``LinearProbe``.

    From 2 levels on, every row passes the experts of all tasks: with T tasks, a step costs about T
    times as much as with one level.

    State: as of :class:`MMoE`.

    Raises ValueError for numbers out of range, and where ``HardSharing`` does.

    Reference: Tang et al. (2020), Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
    (MTL) Model for Personalized Recommendations, sections 4.1 (CGC) and 4.2 (PLE).
    Differs from the paper in the offsets of the gates, in a backbone that may come before, in the
    same number of experts for every task, and in adapting to tasks that were not trained on.

    >>> import quickstudy as qs
    >>> learner = qs.PLE(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        shared: int = 4,
        own: int = 2,
        hidden: tuple[int, ...] = (64,),
        levels: int = 2,
        tower: tuple[int, ...] = (),
        steps: int = 5,
        rate: float = 1.0,
        l2: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self._know(tasks)
        self.backbone, self.shared, self.own, self.levels = backbone, shared, own, levels
        self.hidden = checked_widths("PLE", "hidden", hidden)
        self.tower = checked_widths("PLE", "tower", tower, fewest=0)
        self.steps, self.rate, self.l2, self.scale = steps, rate, l2, scale
        d, count = feature_size(backbone, "PLE"), len(self.tasks)
        refuse_sizes("PLE", shared=shared, own=own, levels=levels)
        self._fit()
        widths = [d] + [self.hidden[-1]] * (levels - 1)
        self.extraction = like(
            backbone,
            nn.ModuleList(
                _Level(count, own, shared, (width, *self.hidden), last=j == levels - 1)
                for j, width in enumerate(widths)
            ),
        )
        self.towers = None
        if self.tasks:
            refuse_support_statistics(backbone, "PLE")
            self.towers = like(backbone, Perceptrons((count,), (self.hidden[-1], *self.tower)))
        self.heads = heads_for(backbone, (*self.hidden, *self.tower)[-1], list(self.tasks.values()))

    @property
    def per_task(self) -> tuple[str, ...]:
        """What the loss of one task alone depends on: its experts and its gate at the last level,
        its gate at the level before, its tower and its head.

        Experts and gates at the levels before reach other tasks through the shared stream.
        """
        last = self.levels - 1
        own = (
            f"extraction.{last}.own.", f"extraction.{last}.gates.",
            f"extraction.{last - 1}.gates.", "towers.",
        )  # fmt: skip
        found = tuple(name for name, _ in self.named_parameters() if name.startswith(own))
        return found + super().per_task

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        assert self.towers is not None
        assert self.heads is not None
        streams, shared = self._before_last(embed_query(self.backbone, inputs, []), place)
        mixed = self._last_level().at(place, streams, shared)
        predictions: Tensor = self.heads(place, self.towers(mixed, place))
        return predictions

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        support = labelled(support, spec.answer)
        z, statistics = embed_support(self.backbone, support)
        stream, experts = self._all_experts(z)
        start = Gate.even(stream, experts)
        state = fit_gated_head(stream, experts, support, spec, start, self._fit())
        return state | {"statistics": statistics}

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        stream, experts = self._all_experts(embed_query(self.backbone, inputs, state["statistics"]))
        return predict_gated(state, stream, experts, spec, self.scale)

    def _before_last(self, z: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        """What the last level reads: the streams (n, tasks, d), or that of one task (n, d), and the
        shared stream (n, d)."""
        streams = shared = z
        for j, level in enumerate(self.extraction[:-1], start=2):
            streams, shared = level(streams, shared, place if j == self.levels else None)
        return streams, shared

    def _all_experts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The shared stream (n, d) before the last level, and all its experts (n, experts, h)."""
        streams, shared = self._before_last(z)
        return shared, self._last_level().all_experts(streams, shared)

    def _last_level(self) -> _Level:
        return cast(_Level, self.extraction[-1])

    def _fit(self) -> GateFit:
        return GateFit("PLE", self.steps, self.rate, self.l2, self.scale)


class _Level(nn.Module):
    """The experts of one level and their gates; without own experts where no task is known.

    Streams are (n, tasks, d), or (n, d) at the first level, where all are the same.
    """

    def __init__(
        self, tasks: int, own: int, shared: int, sizes: tuple[int, ...], last: bool
    ) -> None:
        super().__init__()
        d = sizes[0]
        self.own = Perceptrons((tasks, own), sizes) if tasks else None
        self.shared = Perceptrons((shared,), sizes)
        self.gates = StackedGates(tasks, d, own + shared) if tasks else None
        self.shared_gate = None if last else StackedGates(1, d, tasks * own + shared)

    def forward(
        self, streams: Tensor, shared: Tensor, place: Place | None
    ) -> tuple[Tensor, Tensor]:
        """The next streams, or with ``place`` that of one task, and the next shared stream."""
        assert self.shared_gate is not None, "the last level has no shared stream"
        common = self.shared(shared)
        if self.own is None or self.gates is None:
            return streams, mixture(self.shared_gate.at(0).shares(shared), common)
        own = self.own(_each(streams))
        experts = torch.cat([own.flatten(1, 2), common], 1)
        after = mixture(self.shared_gate.at(0).shares(shared), experts)
        if place is None:
            shares = self.gates.all_shares(streams)
            of_own, of_common = shares.split([own.shape[2], common.shape[1]], -1)
            mixed = torch.einsum("ntk,ntkh->nth", of_own, own)
            return mixed + torch.einsum("ntk,nkh->nth", of_common, common), after
        stream = streams if streams.ndim == 2 else streams[:, place]
        return self._mixed(place, stream, own[:, place], common), after

    def at(self, place: Place, stream: Tensor, shared: Tensor) -> Tensor:
        """The next stream (n, h) of the task at ``place``, from its ``stream`` (n, d)."""
        assert self.own is not None
        return self._mixed(place, stream, self.own(stream, place), self.shared(shared))

    def all_experts(self, streams: Tensor, shared: Tensor) -> Tensor:
        """The outputs of all experts, those of the tasks first: (n, experts, h)."""
        common: Tensor = self.shared(shared)
        if self.own is None:
            return common
        return torch.cat([self.own(_each(streams)).flatten(1, 2), common], 1)

    def _mixed(self, place: Place, stream: Tensor, own: Tensor, common: Tensor) -> Tensor:
        assert self.gates is not None
        return mixture(self.gates.at(place).shares(stream), torch.cat([own, common], 1))


def _each(streams: Tensor) -> Tensor:
    """Streams as the inputs of experts (tasks, own): an axis for the experts, of size 1."""
    return streams if streams.ndim == 2 else streams.unsqueeze(2)
