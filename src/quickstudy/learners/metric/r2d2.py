"""R2D2: ridge regression in closed form as the head of every task."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.features import like, refuse_heads_and_maps
from quickstudy.learners.outputs import present_entry
from quickstudy.learners.transfer.heads import ridge_weight
from quickstudy.tasks.examples import labelled, without_absent


class R2D2(Learner):
    """Maps a support set to the ridge regression of its one-hot labels on its features.

        W      = X' (X X' + l2 I)^-1 Y                        (X = f(x_support), rows as weighted)
        logits = scale f(x) W

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``l2``        where the penalty starts; learnt, and kept positive by its logarithm.
    ``scale``     where the factor starts; learnt likewise. Ridge predicts about 0 and 1, far too
                  close for a softmax, hence 10.

    State: ``weight`` (d, ways), ``present`` (ways,).

    Raises ValueError for numbers that are not positive, and for a backbone
    with a head or with maps.

    Reference: Bertinetto, Henriques, Torr and Vedaldi (2019), Meta-learning with Differentiable
    Closed-form Solvers.
    Differs from the paper in having no offset beta, which adds the same to the logits of every
    class, so that no softmax sees it; and in solving with a d x d matrix where rows outnumber
    features, which is the same W.

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
            # Solvers return column order, a file in row order, and a product rounds by layout.
            "weight": weight.contiguous(),
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        logits = self.log_scale.exp() * (self.embed(state, inputs) @ state["weight"])
        return without_absent(logits, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in which the head is linear."""
        return embed_query(self.backbone, inputs, state["statistics"])
