"""Prototypical Networks: classify by the nearest class mean in feature space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import feature_size, like, refuse_heads_and_maps
from quickstudy.backbones.norms import Statistics, embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.extending import joint_means, refuse_shared_statistics
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.tasks.examples import class_means, labelled, without_absent


class Prototypical(Learner):
    """Maps a support set to the class whose mean feature vector is nearest.

        c_k    = sum_i w_i [y_i = k] f(x_i) / sum_i w_i [y_i = k]          (equation 1)
        logits = -scale * distance(f(x), c_k)                              (equation 2)

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``distance``  (n, d), (ways, d) -> (n, ways): :func:`distances.squared_euclidean`, the paper's
                  choice, or :func:`distances.cosine`.
    ``scale``     factor on the distance; 1 in the paper. Use about 10 for the cosine distance,
                  which is at most 2.

    State: ``prototypes`` (ways, d); ``totals`` (ways,), the total weight of each class;
    ``present`` (ways,), whether a class has weight (others get probability 0); ``statistics`` for
    norm="support".

    :meth:`extend` adds rows and classes later: the current means and their total weights determine
    the means over more rows.

    Raises ValueError for a scale that is not positive, and for a backbone with a head or with maps.

    Reference: Snell, Swersky and Zemel (2017), Prototypical Networks for Few-shot Learning.
    Differs from the paper only in row weights, which are 1 there.

    >>> import quickstudy as qs
    >>> learner = qs.Prototypical(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

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
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        prototypes, totals = class_means(features, support, spec.outputs)
        return _state(prototypes, totals, statistics)

    def prior(self, spec: TaskSpec) -> State:
        """The state before any support row: no class is present.

        Raises ValueError for a backbone that does not declare its number of features, or that
        normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "Prototypical")
        features = feature_size(self.backbone, "Prototypical")
        prototypes = like(self.backbone, torch.zeros(spec.outputs, features))
        return _state(prototypes, prototypes.new_zeros(spec.outputs), [])

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The prototypes of all earlier rows and ``support``; the spec may add classes.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "Prototypical")
        more = self.adapt(support, spec)
        means = joint_means(
            state["prototypes"], state["totals"], more["prototypes"], more["totals"]
        )
        return _state(*means, [])

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        distances = self.distance(self.embed(state, inputs), state["prototypes"])
        return without_absent(-self.scale * distances, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in the same space as the prototypes."""
        return embed_query(self.backbone, inputs, state["statistics"])


def _state(prototypes: Tensor, totals: Tensor, statistics: Statistics) -> State:
    return {
        "prototypes": prototypes, "totals": totals, "present": totals > 0, "statistics": statistics,
    }  # fmt: skip
