"""MetaOptNet: a head per task, fitted as a support vector machine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import like, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.metric.svm import crammer_singer
from quickstudy.learners.outputs import present_entry
from quickstudy.tasks.examples import labelled, without_absent


class MetaOptNet(Learner):
    """Maps a support set to the multi-class linear support vector machine on its features.

        W      = argmin |W|^2 / 2 + C sum_i w_i xi_i
                 f(x_i) W_{y_i} - f(x_i) W_k >= [k != y_i] - xi_i   for all k
        logits = scale f(x) W

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``C``         cost of violating the margin; 0.1 as in the paper.
    ``scale``     initial factor on the logits. It is learnt as a logarithm, so it stays positive.

    The problem is solved to its optimum and differentiated there: see :func:`svm.crammer_singer`.

    State: ``weight`` (d, ways), ``present`` (ways,).

    Raises ValueError for numbers that are not positive, and for a backbone with a head or maps.

    Reference: Lee, Maji, Ravichandran and Soatto (2019), Meta-Learning with Differentiable Convex
    Optimization.
    Differs from the paper in the solver's iterations, on which the solution does not depend, in
    row weights, which are 1 there, and in training without label smoothing. The paper's ridge
    regression head is :class:`R2D2`.

    >>> import quickstudy as qs
    >>> learner = qs.MetaOptNet(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

    def __init__(self, backbone: nn.Module, C: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        if C <= 0 or scale <= 0:
            raise ValueError(f"MetaOptNet: needs C > 0 and scale > 0; found C={C}, scale={scale}.")
        refuse_heads_and_maps(backbone, "MetaOptNet")
        self.backbone, self.C, self.scale = backbone, C, scale
        self.log_scale = nn.Parameter(like(backbone, torch.tensor(math.log(scale))))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weight fitted to ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        labels = spec.answer.encode(support.targets, features.dtype)
        weights = support.weights.to(features.dtype)
        return {
            # Files are row-major, and rounding depends on the layout, so fix it here.
            "weight": crammer_singer(features, labels, weights, self.C).contiguous(),
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
