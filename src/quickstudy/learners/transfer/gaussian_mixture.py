"""Gaussian mixtures: one Gaussian for each class, fitted to labelled and unlabelled rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.transfer.k_means import READS_UNLABELLED, members_of, refuse_vmap
from quickstudy.tasks.examples import without_absent

_TOLERANCE = 1e-10
"""Stop when no responsibility changes by more."""


class GaussianMixture(Learner):
    """Maps a support set, labelled in part or not at all, to one Gaussian for each class.

        r_ik = [k = y_i] where y_i is known, else p(k | f_i)                     (E step)
        p_k  = sum_i w_i r_ik / sum_i w_i,   m_k = sum_i w_i r_ik f_i / (w r)_k
        v_k  = sum_i w_i r_ik (f_i - m_k)^2 / (w r)_k + floor                    (M step)
        logits = log p_k + log N(f; m_k, diag v_k)

    By EM, from the clusters of :class:`KMeans`, and so with its names: of the labelled rows where
    there are some, else without meaning (``qs.clustering``). With all rows labelled it is the
    Gaussian classifier in closed form (naive Bayes).

    ``backbone``  inputs (n, ...) -> features (n, d); ``adapt`` does not change it.
    ``floor``     least variance, as a share of the mean variance of all rows; 0.01 by default.
                  A class of one labelled row has no variance of its own.
    ``restarts``  starts of k-means without labels. ``steps``: most steps of EM. ``seed``: of the
                  restarts.

    Training over tasks takes the responsibilities as constants, which is not the whole gradient.

    State: ``means`` (ways, d), ``variances`` (ways, d), ``shares`` (ways,), the p_k; ``present``
    (ways,); ``statistics`` for norm="support".

    Raises ValueError as :class:`KMeans` does.

    Reference: Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM
    Algorithm; with labelled rows, Nigam, McCallum, Thrun and Mitchell (2000), Text Classification
    from Labeled and Unlabeled Documents using EM. Own code, since scikit-learn's mixture has
    neither row weights nor labelled rows; without both, it gives the same (tests).

    >>> import torch, quickstudy as qs
    >>> learner = qs.GaussianMixture(torch.nn.Identity())
    >>> support = qs.examples([[0.0], [1.0], [8.0], [9.0], [10.0]], [0, -1, 1, -1, -1])
    >>> learner(support, qs.classification(2)).state["means"].flatten().round().tolist()
    [0.0, 9.0]
    """

    answers = (Classes,)
    exceptions = READS_UNLABELLED

    def __init__(
        self,
        backbone: nn.Module,
        floor: float = 0.01,
        restarts: int = 10,
        steps: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if floor <= 0:
            raise ValueError(f"GaussianMixture: floor must be positive; found {floor}.")
        refuse_sizes("GaussianMixture", restarts=restarts, steps=steps)
        refuse_heads_and_maps(backbone, "GaussianMixture")
        self.backbone, self.floor, self.seed = backbone, floor, seed
        self.restarts, self.steps = restarts, steps

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The Gaussians of the classes of ``support``."""
        refuse_vmap("GaussianMixture")
        features, statistics = embed_support(self.backbone, support)
        with torch.no_grad():
            members, present = members_of(
                features, support, spec.outputs, self.restarts, self.steps, self.seed
            )
            members = self._responsibilities(features, members, support, present)
        mixture = self._mixture(features, members)
        return mixture | {"present": present, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways): the log of share times density."""
        features = embed_query(self.backbone, inputs, state["statistics"])
        return without_absent(_log_densities(features, state), state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in the space of the means."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _responsibilities(
        self, features: Tensor, members: Tensor, support: Examples, present: Tensor
    ) -> Tensor:
        """(n, ways): w_i r_ik after the last E step."""
        ways = members.shape[1]
        weights = support.weights.to(members.dtype).unsqueeze(1)
        free = (support.targets < 0).unsqueeze(1)
        if not bool((free & (weights > 0)).any()):
            return members
        named = one_hot(support.targets, ways, members.dtype)
        for _ in range(self.steps):
            logits = without_absent(
                _log_densities(features, self._mixture(features, members)), present
            )
            now = weights * torch.where(free, logits.softmax(1), named)
            change = float((now - members).abs().max())
            members = now
            if change <= _TOLERANCE * float(weights.max()):
                break
        return members

    def _mixture(self, features: Tensor, members: Tensor) -> dict[str, Tensor]:
        """The M step."""
        tiny = torch.finfo(features.dtype).tiny
        totals = members.sum(0)
        shares = members / totals.clamp_min(tiny)
        means = shares.mT @ features
        # Squares of differences, since a difference of squares loses variances far from the origin.
        apart = (features.unsqueeze(1) - means).square()
        variances = (shares.unsqueeze(2) * apart).sum(0)
        floor = self.floor * _mean_variance(features, members.sum(1))
        return {
            "means": means,
            "variances": (variances + floor).clamp_min(tiny**0.5),
            "shares": totals / totals.sum().clamp_min(tiny),
        }


def _mean_variance(features: Tensor, weights: Tensor) -> Tensor:
    """The mean over features of the variance of all rows ()."""
    share = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return (share @ (features - share @ features).square()).mean()


def _log_densities(features: Tensor, mixture: dict[str, Tensor]) -> Tensor:
    """(n, ways): log p_k + log N(f; m_k, diag v_k), within the range of the features' type."""
    means, variances = mixture["means"], mixture["variances"]
    tiny = torch.finfo(features.dtype).tiny
    # Divided before the square, which could overflow.
    apart = ((features.unsqueeze(1) - means) / variances.sqrt()).square().sum(2).clamp_max(1e20)
    volume = variances.log().sum(1) + variances.shape[1] * math.log(2 * math.pi)
    return mixture["shares"].clamp_min(tiny).log() - (apart + volume) / 2
