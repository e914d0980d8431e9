"""R2D2: a head per task, fitted by ridge regression in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import like, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.outputs import present_entry
from quickstudy.learners.transfer.heads import ridge_weight
from quickstudy.tasks.examples import labelled, without_absent


class R2D2(Learner):
    """Maps a support set to the ridge regression of its one-hot labels on its features.

        W      = X' (X X' + l2 I)^-1 Y                        (X = f(x_support), rows weighted)
        logits = scale f(x) W

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``l2``        initial value of the penalty. It is learnt as a logarithm, so it stays positive.
    ``scale``     initial factor on the logits; learnt as a logarithm too. Ridge regression
                  predicts values near 0 and 1, too close together for a softmax, hence 10.

    State: ``weight`` (d, ways); ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, and for a backbone with a head or maps.

    Reference: Bertinetto, Henriques, Torr and Vedaldi (2019), Meta-learning with Differentiable
    Closed-form Solvers.
    Differs from the paper in having no offset beta: it adds the same number to all logits, so the
    softmax does not depend on it. Also solves with a d x d matrix if there are more rows than
    features, which gives the same W.

    >>> import quickstudy as qs
    >>> learner = qs.R2D2(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

    def __init__(self, backbone: nn.Module, l2: float = 1.0, scale: float = 10.0) -> None:
        super().__init__()
        if l2 <= 0 or scale <= 0:
            raise ValueError(f"R2D2: needs l2 > 0 and scale > 0; found l2={l2}, scale={scale}.")
        refuse_heads_and_maps(backbone, "R2D2")
        self.backbone, self.l2, self.scale = backbone, l2, scale
        self.log_l2 = nn.Parameter(like(backbone, torch.tensor(math.log(l2))))
        self.log_scale = nn.Parameter(like(backbone, torch.tensor(math.log(scale))))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weight fitted to ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        labels = spec.answer.encode(support.targets, features.dtype)
        weights = support.weights.to(features.dtype)
        weight = ridge_weight(features, labels, weights, self.log_l2.exp())
        return {
            # The solver returns column-major memory, but files are row-major. Rounding depends on
            # the layout, so fix it here.
            "weight": weight.contiguous(),
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        logits = self.log_scale.exp() * (self.embed(state, inputs) @ state["weight"])
        return without_absent(logits, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), the inputs of the linear head."""
        return embed_query(self.backbone, inputs, state["statistics"])
