"""k-means: clusters of all rows, which labelled rows name where there are some."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.modules import in_torch_func
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.tasks.examples import without_absent

READS_UNLABELLED = {
    "unknown_element_is_absent": "unlabelled rows are what it learns from",
    "vmap_equals_loop": "the number of steps depends on values, so tasks are looped",
}


class KMeans(Learner):
    """Maps a support set, labelled in part or not at all, to the means of its clusters.

        a_i = y_i where it is known, else argmin_k |f(x_i) - c_k|^2
        c_k = sum_i w_i [a_i = k] f(x_i) / sum_i w_i [a_i = k]       until no a_i changes
        logits = -scale |f(x) - c_k|^2

    **With labelled rows** there is one cluster for each class that has some. It starts at their
    mean, so that it has their name, and labelled rows never leave it. With all rows labelled this
    is :class:`Prototypical`.

    **Without any**, there are as many clusters as the task has classes, found by scikit-learn's
    ``KMeans`` as the best of ``restarts`` starts. Their numbers mean nothing: they are sorted by
    their means, first feature first. Score them with ``qs.clustering``.

    ``backbone``  inputs (n, ...) -> features (n, d); ``adapt`` does not change it.
    ``scale``     factor on the distances; 1, as in :class:`Prototypical`.
    ``restarts``  starts without labels, 10 by default, each by k-means++.
    ``steps``     most steps; 300 as in scikit-learn.
    ``seed``      of the restarts.

    Training over tasks takes the assignments as constants, which is the derivative almost
    everywhere.

    State: ``means`` (ways, d); ``present`` (ways,), which clusters there are; ``statistics`` for
    norm="support".

    Raises ValueError for numbers out of range, a backbone with a head or with maps, and where there
    are fewer different unlabelled rows than clusters.

    Reference: Lloyd (1982), Least squares quantization in PCM; with labelled rows, Basu, Banerjee
    and Mooney (2002), Semi-supervised Clustering by Seeding, algorithm 2 (Constrained-KMeans).
    Differs from it in row weights.

    >>> import torch, quickstudy as qs
    >>> learner = qs.KMeans(torch.nn.Identity())
    >>> support = qs.examples([[0.0], [1.0], [8.0], [9.0], [10.0]], [0, -1, 1, -1, -1])
    >>> learner(support, qs.classification(2)).state["means"].flatten().tolist()
    [0.5, 9.0]
    """

    answers = (Classes,)
    exceptions = READS_UNLABELLED

    def __init__(
        self,
        backbone: nn.Module,
        scale: float = 1.0,
        restarts: int = 10,
        steps: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"KMeans: scale must be positive; found {scale}.")
        refuse_sizes("KMeans", restarts=restarts, steps=steps)
        refuse_heads_and_maps(backbone, "KMeans")
        self.backbone, self.scale, self.seed = backbone, scale, seed
        self.restarts, self.steps = restarts, steps

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The means of the clusters of ``support``."""
        refuse_vmap("KMeans")
        features, statistics = embed_support(self.backbone, support)
        with torch.no_grad():
            members, present = members_of(
                features, support, spec.outputs, self.restarts, self.steps, self.seed
            )
        shares = members / members.sum(0).clamp_min(torch.finfo(members.dtype).tiny)
        return {"means": shares.mT @ features, "present": present, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        distances = squared_euclidean(self.embed(state, inputs), state["means"])
        return without_absent(-self.scale * distances, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in the space of the means."""
        return embed_query(self.backbone, inputs, state["statistics"])


def refuse_vmap(who: str) -> None:
    """Raise RuntimeError under transforms of ``torch.func``: the engine then loops over tasks."""
    if in_torch_func():
        raise RuntimeError(f"{who}: how many steps it takes depends on values, so loop")


def members_of(
    features: Tensor, support: Examples, ways: int, restarts: int, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The weight of each row in each cluster (n, ways), and which clusters there are (ways,)."""
    weights = support.weights.to(features.dtype)
    named = one_hot(support.targets, ways, features.dtype)
    present = weights @ named > 0
    if not bool(present.any()):
        chosen = _unsupervised(features, support.weights, ways, restarts, steps, seed)
        everything = torch.ones_like(present)
        return weights.unsqueeze(1) * one_hot(chosen, ways, features.dtype), everything
    free = (support.targets < 0).unsqueeze(1)
    members = weights.unsqueeze(1) * named
    for _ in range(steps):
        means = (members / members.sum(0).clamp_min(torch.finfo(members.dtype).tiny)).mT @ features
        nearest = without_absent(-squared_euclidean(features, means), present).argmax(1)
        now = weights.unsqueeze(1) * torch.where(free, one_hot(nearest, ways, named.dtype), named)
        if torch.equal(now, members):
            break
        members = now
    return members, present


def _unsupervised(
    features: Tensor, weights: Tensor, clusters: int, restarts: int, steps: int, seed: int
) -> Tensor:
    """The cluster of each row (n,), by scikit-learn."""
    from sklearn.cluster import KMeans as KMeansOfSklearn
    from sklearn.exceptions import ConvergenceWarning

    there = weights > 0
    x = features[there].double().cpu().numpy()
    # Equal rows as one of their joint weight, in a fixed order: the starts depend on the order.
    rows, place = np.unique(x, axis=0, return_inverse=True)
    if len(rows) < clusters:
        raise ValueError(
            f"KMeans: needs {clusters} different rows for {clusters} clusters; found {len(rows)}. "
            "Ask for fewer clusters, or give more rows."
        )
    joint = np.bincount(place.reshape(-1), weights[there].double().cpu().numpy())
    size = np.abs(rows).max() or 1.0  # in this unit no square underflows or overflows
    model = KMeansOfSklearn(clusters, n_init=restarts, max_iter=steps, tol=0, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit(rows / size, sample_weight=joint)
    order = np.lexsort(found.cluster_centers_.T[::-1])
    ids = np.argsort(order)[model.predict(features.double().cpu().numpy() / size)]
    return torch.from_numpy(ids).to(features.device)
