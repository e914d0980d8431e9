"""Linear probe: a regularised linear head, fitted anew to each support set on fixed features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.features import refuse_heads_and_maps
from quickstudy.learners.transfer.heads import logistic, ridge
from quickstudy.tasks.examples import class_weights, labelled, one_hot, without_absent

Head = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(features (n, d), targets (n, outputs), weights (n,), l2) -> slope (d, outputs) and offset."""


class LinearProbe(Learner):
    """Maps a support set to a linear head on the backbone's features, the best one for that set.

        W, b   = head(f(x_support), y_support, weights, l2)
        logits = scale * (f(x) W + b)

    ``backbone``  inputs (n, ...) -> features (n, d); kept as it is by ``adapt``. Training over many
                  tasks differentiates through the head, so the features learn to be probed.
    ``head``      :func:`ridge` (closed form; classification and regression) or :func:`logistic`
                  (convex, iterated to its optimum; classification only).
    ``l2``        penalty on the slope, against a sum (not mean) of losses; 1 as in scikit-learn.
    ``scale``     factor on the answers of a ridge classifier, which regresses on 0 and 1 and would
                  otherwise be far too unsure; default 10.

    State: ``slope`` (d, outputs), ``offset`` (outputs,), ``present`` (outputs,) for classification.

    Raises ValueError for numbers that are not positive, for a backbone with a head or with maps,
    and for real-valued targets under the logistic head.

    Reference: Alain and Bengio (2016), Understanding intermediate layers using linear classifier
    probes; as a few-shot baseline: Tian et al. (2020), Rethinking Few-Shot Image Classification.
    Differs from these in fitting the head to its optimum, for weighted rows; how near the logistic
    one comes is said at :func:`logistic`.

    >>> import quickstudy as qs
    >>> learner = qs.LinearProbe(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, backbone: nn.Module, head: Head = ridge, l2: float = 1.0, scale: float = 10.0
    ) -> None:
        super().__init__()
        if l2 <= 0 or scale <= 0:
            raise ValueError(
                f"LinearProbe: l2 and scale must be positive; found l2={l2}, scale={scale}."
            )
        refuse_heads_and_maps(backbone, "LinearProbe")
        self.backbone, self.head, self.l2, self.scale = backbone, head, l2, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The head fitted to ``support``."""
        support = labelled(support)
        features, statistics = embed_support(self.backbone, support)
        state: dict[str, Any] = {"statistics": statistics}
        targets = support.targets
        if targets.is_floating_point():
            if self.head is logistic:
                raise ValueError(
                    "LinearProbe: the logistic head classifies; found real-valued targets. "
                    "Use head=ridge for regression."
                )
        else:
            state["present"] = class_weights(support, spec.outputs) > 0
            targets = one_hot(targets, spec.outputs, features.dtype)
        weights = support.weights.to(features.dtype)
        slope, offset = self.head(features, targets, weights, self.l2)
        # Solvers answer in column order, a file in row order, and a product rounds by its layout.
        state["slope"], state["offset"] = slope.contiguous(), offset
        return state

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        answers: Tensor = self.embed(state, inputs) @ state["slope"] + state["offset"]
        if "present" not in state:
            return answers
        scale = self.scale if self.head is ridge else 1.0
        return without_absent(scale * answers, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in which the head is linear."""
        return embed_query(self.backbone, inputs, state["statistics"])
