"""Proto-MAML: MAML whose head starts from the prototypes of each task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import (
    Statistics,
    embed_query,
    embed_support,
    needs_support_statistics,
)
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights, descend
from quickstudy.learners.gradient.network import refuse_running
from quickstudy.modules import call_with
from quickstudy.tasks.examples import (
    class_ids,
    class_weights,
    labelled,
    one_hot,
    weighted_mean,
    without_absent,
)

_BODY, _WEIGHT, _BIAS = "backbone.", "head.weight", "head.bias"


class ProtoMAML(Learner):
    """Maps a support set to the backbone and a head of its own after a few gradient steps on it.

        c_k = mean of f_θ(x) over the support rows of class k
        W_k = 2 c_k,   b_k = -|c_k|²          so W_k·f + b_k = |f|² - |f - c_k|²    (section 3)
        (θ, W, b) <- (θ, W, b) - rate * ∇ L_support(θ, W, b),     ``steps`` times
        predict = W f_θ(x) + b

    Before the first step it answers as a prototypical network; the steps go on from there. Any
    number of ways: no head is learnt. The meta-gradient flows through the steps (exact, second
    order) and through the head's start; ``first_order`` takes the inner gradients as constants, and
    keeps the way through the start.

    ``backbone``     inputs (n, ...) -> features (n, d).
    ``steps``        inner steps; the paper chooses among 1 to 15 by validation. 0 is a prototypical
                     network.
    ``rate``         inner learning rate, chosen by validation in the paper. Slopes grow with the
                     head, which grows with the features: on Conv4 0.01 already undoes the start.
    ``first_order``  leave the second derivatives out, as the paper does.

    State: ``weights`` by name, those of the backbone and ``head.weight`` (ways, d), ``head.bias``
    (ways,); ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for real-valued targets, and for norm="running", whose population statistics
    belong to no adapted weights.

    Reference: Triantafillou et al. (2020), Meta-Dataset: A Dataset of Datasets for Learning to
    Learn from Few Examples, section 3.
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
        self, backbone: nn.Module, steps: int = 3, rate: float = 0.001, first_order: bool = False
    ) -> None:
        super().__init__()
        if steps < 0 or rate <= 0:
            raise ValueError(
                f"ProtoMAML: needs steps >= 0 and rate > 0; found steps={steps}, rate={rate}."
            )
        refuse_running(backbone, "ProtoMAML")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.first_order = first_order

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Backbone and head after the inner steps on ``support``."""
        return self._state(self._descend(support, spec)[-1], support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        return _logits(self.embed(state, inputs), state["weights"], state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of the adapted backbone."""
        body = _body(state["weights"])
        return embed_query(
            lambda rows: call_with(self.backbone, body, rows), inputs, state["statistics"]
        )

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        path = self._descend(support, spec)
        return [self._state(weights, support, spec) for weights in path]

    def _descend(self, support: Examples, spec: TaskSpec) -> list[Weights]:
        support = labelled(class_ids(support, "ProtoMAML"))
        start: Weights = {_BODY + name: p for name, p in self.backbone.named_parameters()}
        prototypes = _prototypes(self._features(start, support)[0], support, spec.outputs)
        start |= {_WEIGHT: 2 * prototypes, _BIAS: -prototypes.square().sum(-1)}
        present = class_weights(support, spec.outputs) > 0

        def loss(weights: Weights) -> Tensor:
            logits = _logits(self._features(weights, support)[0], weights, present)
            return weighted_mean(spec.loss(logits, support.targets), support.weights)

        return descend(loss, start, self.steps, self.rate, first_order=self.first_order)

    def _state(self, weights: Weights, support: Examples, spec: TaskSpec) -> State:
        support = labelled(support)
        reused = needs_support_statistics(self.backbone)
        return {
            "weights": weights,
            "present": class_weights(support, spec.outputs) > 0,
            "statistics": self._features(weights, support)[1] if reused else [],
        }

    def _features(self, weights: Weights, support: Examples) -> tuple[Tensor, Statistics]:
        body = _body(weights)
        return embed_support(lambda rows: call_with(self.backbone, body, rows), support)


def _body(weights: Weights) -> Weights:
    """The backbone's part of the weights, by the backbone's own names."""
    return {n.removeprefix(_BODY): w for n, w in weights.items() if n.startswith(_BODY)}


def _logits(features: Tensor, weights: Weights, present: Tensor) -> Tensor:
    return without_absent(features @ weights[_WEIGHT].mT + weights[_BIAS], present)


def _prototypes(features: Tensor, support: Examples, outputs: int) -> Tensor:
    """Weighted class means (ways, d); zero for classes without weight."""
    counted = one_hot(support.targets, outputs, features.dtype)
    counted = counted * support.weights.to(features.dtype).unsqueeze(-1)
    totals = counted.sum(0).clamp_min(torch.finfo(features.dtype).tiny)
    return (counted.mT @ features) / totals.unsqueeze(-1)
