"""Nearest neighbours: the classes of the support rows that are most similar vote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.metric.distances import tanimoto
from quickstudy.learners.outputs import present_entry
from quickstudy.tasks.examples import labelled, without_absent

_PRIOR = 1e-3
"""Similarity that every class is given, so that none has probability 0."""


class NearestNeighbours(Learner):
    """Maps a support set to the classes of its ``neighbours`` rows most similar to a query.

        s_i    = tanimoto(f(x), f(x_i))
        p_k    = sum over neighbours i of s_i [y_i = k] / sum over neighbours of s_i
        logits = log p_k

    Tanimoto similarity is the usual one for fingerprints of molecules. Rows of equal similarity
    share the last place, and a row of weight 2 is two neighbours; so order does not matter.

    ``backbone``    inputs (n, ...) -> features (n, d).
    ``neighbours``  how many vote; 5 by default.

    State: ``features`` (n, d), ``labels`` (n, ways) one-hot, ``weights`` (n,), ``present`` (ways,),
    ``statistics`` for norm="support".

    Raises ValueError for no neighbours, and for a backbone with a head or with maps.

    Reference: Cover and Hart (1967), Nearest neighbor pattern classification; with similarities as
    votes Dudani (1976), The distance-weighted k-nearest-neighbor rule.

    >>> import torch, quickstudy as qs
    >>> learner = qs.NearestNeighbours(torch.nn.Identity(), neighbours=1)
    >>> support = qs.examples([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [0, 1])
    >>> predictor = learner(support, qs.classification(ways=2))
    >>> predictor(torch.tensor([[1.0, 0.0, 0.0]])).argmax(-1).item()
    0
    """

    answers = (Classes,)

    def __init__(self, backbone: nn.Module, neighbours: int = 5) -> None:
        super().__init__()
        refuse_sizes("NearestNeighbours", neighbours=neighbours)
        refuse_heads_and_maps(backbone, "NearestNeighbours")
        self.backbone, self.neighbours = backbone, neighbours

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The features and labels of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        return {
            "features": features,
            "labels": one_hot(support.targets, spec.outputs, features.dtype),
            "weights": support.weights.to(features.dtype),
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        similarity = tanimoto(self.embed(state, inputs), state["features"])
        counted = _counted(similarity.detach(), state["weights"], self.neighbours)
        # Of features of any sign the similarity may be negative: those rows have no vote.
        votes = (counted * similarity.clamp_min(0)) @ state["labels"] + _PRIOR
        return without_absent(votes.log() - votes.sum(-1, keepdim=True).log(), state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in the same space as those of the support set."""
        return embed_query(self.backbone, inputs, state["statistics"])


def _counted(similarity: Tensor, weights: Tensor, neighbours: int) -> Tensor:
    """(q, n): how much of each support row is among the neighbours of each query."""
    order = similarity.unsqueeze(-2)  # (q, 1, n), against each row (q, n, 1)
    own = similarity.unsqueeze(-1)
    above = ((order > own).to(weights.dtype) * weights).sum(-1)
    tied = ((order == own).to(weights.dtype) * weights).sum(-1)
    places = (neighbours - above).clamp_min(0) / tied.clamp_min(torch.finfo(tied.dtype).tiny)
    return places.clamp_max(1) * weights
