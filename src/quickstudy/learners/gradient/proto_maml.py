"""Proto-MAML: MAML whose head starts from the prototypes of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers import Classes
from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.replica import call_with
from quickstudy.core import State
from quickstudy.learners.gradient.descend import Update, Weights, sgd
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import SupportLoss, refuse_running
from quickstudy.tasks.examples import class_means

_BODY, _WEIGHT, _BIAS = "backbone.", "head.weight", "head.bias"


class ProtoMAML(GradientLearner):
    """Maps a support set to the backbone and a new head after a few gradient steps on it.

        c_k = mean of f_θ(x) over the support rows of class k
        W_k = 2 c_k,   b_k = -|c_k|²          so W_k·f + b_k = |f|² - |f - c_k|²
        (θ, W, b) <- (θ, W, b) - rate * ∇ L_support(θ, W, b),     ``steps`` times
        predict = W f_θ(x) + b

    Before the first step it predicts as a prototypical network does. Tasks may have any number of
    ways, because no head is learnt. The meta-gradient passes through the steps by
    ``meta_gradient``, and always through the head's initialisation.

    ``backbone``     inputs (n, ...) -> features (n, d).
    ``steps``        inner steps; chosen by validation in the paper, 1 or 6 in its code's settings.
                     0 is a prototypical network.
    ``rate``         inner learning rate, chosen by validation in the paper. Larger features give
                     larger gradients: on Conv4, 0.01 already destroys the initial head.
    ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                     as for :class:`quickstudy.MAML`; the paper's is ``FirstOrder()``.
    ``adapts``       name patterns of the backbone's parameters that the steps change; all by
                     default. The head always adapts; with ``()``, it alone.

    State: the adapted ``weights`` by name, those of the backbone and ``head.weight`` (ways, d),
    ``head.bias`` (ways,); ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for answers other than classes, for numbers that are not positive, for
    settings that ``meta_gradient`` cannot work with, for a pattern that no trainable parameter
    matches, for a backbone that declares a head or maps, and for norm="running", whose
    population statistics are not those of adapted weights.

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

    answers = (Classes,)
    exceptions = {}  # noqa: RUF012  (a ClassVar in Learner)
    # The support set initialises the head. Without support rows, or for classes added later,
    # there is no initialisation.
    prior = None  # type: ignore[assignment]
    extend = None  # type: ignore[assignment]

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
        inner = InnerLoop(
            "ProtoMAML", steps, rate, meta_gradient, adapts, update, clip, test_steps, learn_rates,
            fewest_steps=0,
        )  # fmt: skip
        refuse_heads_and_maps(backbone, "ProtoMAML")
        refuse_running(backbone, "ProtoMAML")
        body = [_BODY + name for name in inner.names_in(backbone)] if adapts != () else []
        super().__init__(backbone, inner, [*body, _WEIGHT, _BIAS])
        self.network = _BackboneWithHead(backbone)

    @property
    def adapted_network(self) -> nn.Module:
        """The backbone with the task's head."""
        return self.network

    @property
    def backbone(self) -> nn.Module:
        """The network that computes the features."""
        return self.network.backbone

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of the adapted backbone."""
        body = _body(state["weights"])
        return embed_query(
            lambda rows: call_with(self.backbone, body, rows), inputs, state["statistics"]
        )

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the parameter of backbone or head."""
        return {name.removeprefix(_BODY): each for name, each in super().learnt_rates().items()}

    def _start(self, loss: SupportLoss) -> Weights:
        features, _ = embed_support(self.backbone, loss.support)
        prototypes, _ = class_means(features, loss.support, loss.spec.outputs)
        head = {_WEIGHT: 2 * prototypes, _BIAS: -prototypes.square().sum(-1)}
        return self.own_weights() | head


class _BackboneWithHead(nn.Module):
    """A backbone with a linear head; each task supplies the head's weights."""

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
        # Empty placeholders that each task's weights replace.
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight.mT + self.bias


def _body(weights: Weights) -> Weights:
    """The backbone's weights, by the names of its parameters."""
    return {n.removeprefix(_BODY): w for n, w in weights.items() if n.startswith(_BODY)}
