"""Prototypical Networks: classify by the nearest class mean in feature space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.features import refuse_heads_and_maps
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.tasks.examples import class_ids, class_means, labelled, without_absent


class Prototypical(Learner):
    """Maps a support set to the class whose mean feature vector is nearest.

        c_k    = sum_i w_i [y_i = k] f(x_i) / sum_i w_i [y_i = k]          (equation 1)
        logits = -scale * distance(f(x), c_k)                              (equation 2)

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``distance``  (n, d), (ways, d) -> (n, ways): :func:`distances.squared_euclidean`, the paper's
                  choice, or :func:`distances.cosine`.
    ``scale``     factor on the distance, 1 in the paper; the cosine, bounded by 2, wants about 10.

    State: ``prototypes`` (ways, d); ``present`` (ways,), classes with no weight get no probability.

    Raises ValueError for real-valued targets, for a scale that is not positive, and for a backbone
    with a head or with maps.

    Reference: Snell, Swersky and Zemel (2017), Prototypical Networks for Few-shot Learning.
    Differs from the paper in nothing but ``weights``, which are one there.

    >>> import quickstudy as qs
    >>> learner = qs.Prototypical(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        distance: Callable[[Tensor, Tensor], Tensor] = squared_euclidean,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"Prototypical: scale must be positive; found {scale}.")
        refuse_heads_and_maps(backbone, "Prototypical")
        self.backbone, self.distance, self.scale = backbone, distance, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The prototypes of ``support``."""
        support = labelled(class_ids(support, "Prototypical"))
        features, statistics = embed_support(self.backbone, support)
        prototypes, totals = class_means(features, support, spec.outputs)
        return {"prototypes": prototypes, "present": totals > 0, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        distances = self.distance(self.embed(state, inputs), state["prototypes"])
        return without_absent(-self.scale * distances, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), the space the prototypes live in."""
        return embed_query(self.backbone, inputs, state["statistics"])
