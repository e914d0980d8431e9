"""Prototypes with a covariance for each class: classify by the nearest mean in its own metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.tasks.examples import class_means, labelled, without_absent


class PrototypicalMahalanobis(Learner):
    """Maps a support set to the class whose mean is nearest in the metric of its covariance.

        Q_k    = l_k S_k + (1 - l_k) S + ridge I,    l_k = n_k / (n_k + 1)     (equation 2)
        logits = -scale (f(x) - c_k)' Q_k^-1 (f(x) - c_k) / 2                  (equation 1)

    c_k and S_k are the mean and the covariance of the features of class k, S the covariance of all
    rows of the support set, n_k the weight of the class. With few rows in a class its metric is
    mostly that of the whole support set; the more it has, the more it has a shape of its own.

    ``backbone``  inputs (n, ...) -> features (n, d). ``adapt`` solves with a d x d matrix for each
                  class, so d is a few hundred at most.
    ``ridge``     what keeps Q_k invertible; 1 in the paper. It sets which variances of features
                  count as large.
    ``scale``     factor on the distance; 1 in the paper.

    State: ``prototypes`` (ways, d); ``whitening`` (ways, d, d), upper triangular with
    W_k W_k' = Q_k^-1; ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, and a backbone with a head or with maps.

    Reference: Bateni, Goyal, Masrani, Wood and Sigal (2020), Improved Few-Shot Visual
    Classification (Simple CNAPS), section 4.2. Differs from the paper in the features: there, a
    network adapts them to the task before, here they are those of the backbone. Covariances are
    divided by n - 1, and by 1 where that would be less, so that a class of one row has S_k = 0.

    >>> import quickstudy as qs
    >>> learner = qs.PrototypicalMahalanobis(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

    def __init__(self, backbone: nn.Module, ridge: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if not (ridge > 0 and scale > 0):
            raise ValueError(
                "PrototypicalMahalanobis: ridge and scale must be positive; found "
                f"ridge={ridge}, scale={scale}."
            )
        refuse_heads_and_maps(backbone, "PrototypicalMahalanobis")
        self.backbone, self.ridge, self.scale = backbone, ridge, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The prototypes of ``support`` and the metric of each."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        prototypes, totals = class_means(features, support, spec.outputs)
        weights = support.weights.to(features.dtype)
        share = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        of_all = _covariance(features - share @ features, weights)
        members = one_hot(support.targets, spec.outputs, features.dtype) * weights.unsqueeze(-1)
        of_class = torch.stack([
            _covariance(features - mean, own)
            for mean, own in zip(prototypes.unbind(), members.unbind(1), strict=True)
        ])  # fmt: skip
        own = (totals / (totals + 1)).reshape(-1, 1, 1)
        identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        metric = own * of_class + (1 - own) * of_all + self._ridge(of_all) * identity
        return {
            "prototypes": prototypes,
            "whitening": _whitening(metric, identity),
            "present": totals > 0,
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        features = self.embed(state, inputs)
        apart = features.unsqueeze(0) - state["prototypes"].unsqueeze(1)
        distances = (apart @ state["whitening"]).square().sum(-1).mT
        return without_absent(-self.scale * distances / 2, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in the same space as the prototypes."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _ridge(self, covariance: Tensor) -> Tensor:
        """``ridge``, but no less than what rounding needs where variances are very large."""
        least = torch.finfo(covariance.dtype).eps * covariance.diagonal().sum().detach() * 10
        return least.clamp_min(self.ridge)


def _covariance(apart: Tensor, weights: Tensor) -> Tensor:
    """(d, d) of rows ``apart`` (n, d) from their mean, over max(total weight - 1, 1)."""
    return (apart * weights.unsqueeze(-1)).mT @ apart / (weights.sum() - 1).clamp_min(1)


def _whitening(metric: Tensor, identity: Tensor) -> Tensor:
    """(ways, d, d): the transposed inverse of the Cholesky factor of each ``metric``."""
    factor = torch.linalg.cholesky(metric)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return inverse.mT.contiguous()
