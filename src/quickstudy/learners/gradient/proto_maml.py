"""Proto-MAML: MAML whose head starts from the prototypes of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.modules import call_with
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.features import refuse_heads_and_maps
from quickstudy.learners.gradient import rates
from quickstudy.learners.gradient.annealed import FollowsTraining
from quickstudy.learners.gradient.descend import Descent, Update, Weights, sgd
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import (
    SupportLoss,
    answer,
    parameters_matching,
    refuse_numbers,
    refuse_running,
    steps_now,
)
from quickstudy.tasks.examples import class_ids, class_means

_BODY, _WEIGHT, _BIAS = "backbone.", "head.weight", "head.bias"


class ProtoMAML(FollowsTraining, Learner):
    """Maps a support set to the backbone and a head of its own after a few gradient steps on it.

        c_k = mean of f_θ(x) over the support rows of class k
        W_k = 2 c_k,   b_k = -|c_k|²          so W_k·f + b_k = |f|² - |f - c_k|²
        (θ, W, b) <- (θ, W, b) - rate * ∇ L_support(θ, W, b),     ``steps`` times
        predict = W f_θ(x) + b

    Before the first step it answers as a prototypical network; the steps go on from there. Any
    number of ways: no head is learnt. The meta-gradient flows through the steps, as
    ``meta_gradient`` says, and always through the head's start.

    ``backbone``     inputs (n, ...) -> features (n, d).
    ``steps``        inner steps; chosen by validation in the paper, 1 or 6 in its code's settings.
                     0 is a prototypical network.
    ``rate``         inner learning rate, chosen by validation in the paper. Slopes grow with the
                     head, which grows with the features: on Conv4 0.01 already undoes the start.
    ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                     as for :class:`quickstudy.MAML`; the paper's is ``FirstOrder()``.
    ``adapts``       name patterns of the backbone's parameters that the steps change, all by
                     default; the head always adapts.

    State: ``weights`` by name, those of the backbone that adapt and ``head.weight`` (ways, d),
    ``head.bias`` (ways,); ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for real-valued targets, for numbers that are not positive, for settings that
    ``meta_gradient`` cannot work with, for no pattern or one that no parameter matches, for a
    backbone that tells of a head of its own or of maps, and for norm="running", whose population
    statistics belong to no adapted weights.

    Reference: Triantafillou et al. (2020), Meta-Dataset: A Dataset of Datasets for Learning to
    Learn from Few Examples.
    Differs from the paper in the norm, which is the backbone's choice, and in the exact
    meta-gradient by default.

    >>> import torch, quickstudy as qs
    >>> learner = qs.ProtoMAML(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples(torch.eye(2), [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    differentiates = True

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 3,
        rate: float = 0.001,
        meta_gradient: MetaGradient = Exact(),  # noqa: B008  (frozen)
        adapts: str | Sequence[str] = ("*",),
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
        learn_rates: bool = False,
    ) -> None:
        super().__init__()
        adapts = (adapts,) if isinstance(adapts, str) else tuple(adapts)
        least = 1 if learn_rates else 0
        refuse_numbers("ProtoMAML", steps, test_steps, rate, clip, least)
        meta_gradient.check("ProtoMAML", steps, None if learn_rates else rate, update)
        refuse_heads_and_maps(backbone, "ProtoMAML")
        refuse_running(backbone, "ProtoMAML")
        body = parameters_matching(backbone, adapts, "ProtoMAML")
        self._adapted = [*(_BODY + name for name in body), _WEIGHT, _BIAS]
        self.network = _Headed(backbone)
        self.steps, self.rate, self.meta_gradient = steps, rate, meta_gradient
        self.adapts, self.update, self.clip = adapts, update, clip
        self.test_steps, self.learn_rates = test_steps, learn_rates
        self.rates = rates.learnt(self._adapted, steps, rate, backbone) if learn_rates else None

    @property
    def backbone(self) -> nn.Module:
        """The network that gives the features."""
        return self.network.backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Backbone and head after the inner steps on ``support``."""
        loss = SupportLoss(self.network, class_ids(support, "ProtoMAML"), spec)
        return loss.state(self._descend(loss)[-1])

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        return answer(self.network, state, inputs, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of the adapted backbone."""
        body = _body(state["weights"])
        return embed_query(
            lambda rows: call_with(self.backbone, body, rows), inputs, state["statistics"]
        )

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        loss = SupportLoss(self.network, class_ids(support, "ProtoMAML"), spec)
        return [loss.state(weights) for weights in self._descend(loss)]

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the parameter of backbone or head that they move."""
        found = rates.by_name(self.rates, self._adapted)
        return {name.removeprefix(_BODY): each for name, each in found.items()}

    def _descend(self, loss: SupportLoss) -> list[Weights]:
        start, way = self._start(loss), self.meta_gradient.at(self.progress)
        by_step = rates.by_step(self.rates, self._adapted, self.rate)
        descent = Descent(steps_now(self), by_step, self.update, self.clip)
        return way.descend(loss, start, descent)

    def _start(self, loss: SupportLoss) -> Weights:
        features, _ = embed_support(self.backbone, loss.support)
        prototypes, _ = class_means(features, loss.support, loss.spec.outputs)
        head = {_WEIGHT: 2 * prototypes, _BIAS: -prototypes.square().sum(-1)}
        everything = dict(self.network.named_parameters()) | head
        return {name: everything[name] for name in self._adapted}


class _Headed(nn.Module):
    """A backbone under a linear head without weights: each task brings its own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = _Head()

    def forward(self, inputs: Any) -> Tensor:
        """Logits (n, ways)."""
        logits: Tensor = self.head(self.backbone(inputs))
        return logits


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # Places to put a task's weights in; empty and untrained themselves.
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.mT + self.bias


def _body(weights: Weights) -> Weights:
    """The backbone's part of the weights, by the backbone's own names."""
    return {n.removeprefix(_BODY): w for n, w in weights.items() if n.startswith(_BODY)}
