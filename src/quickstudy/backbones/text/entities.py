"""Encoders of sentences with marked words: of two entities, and of every word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from quickstudy.backbones.text.encoder import TextEncoder, mean_of_tokens, to_unit_length
from quickstudy.base.trees import dtype_and_shape


@final
class EntityEncoder(nn.Module):
    """``{"ids", "mask", "head", "tail"}`` (n, length) each -> features (n, 3 d).

    The mean of the transformer's last vectors over the tokens of the sentence, of the head and of
    the tail, each divided by its length: what the sentence says, and of whom.

    ``encoder``  a transformer that reads ``ids`` and ``mask``.

    Baldini Soares et al. (2019), Matching the Blanks, compare such ways to represent a relation;
    this is their "mention pooling", with the mean instead of the largest value of each feature, and
    with the sentence beside the mentions.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = 3 * encoder.features

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features (n, 3 d); ValueError for other inputs."""
        ids, mask, head, tail = marked(inputs, ("ids", "mask", "head", "tail"))
        vectors, mask = self.encoder.vectors({"ids": ids, "mask": mask})
        width = vectors.shape[1]
        parts = (mask, head[:, :width], tail[:, :width])
        return torch.cat([to_unit_length(mean_of_tokens(vectors, part)) for part in parts], -1)


@final
class WordEncoder(nn.Module):
    """``{"ids", "mask", "place"}`` (n, length) and ``"head"`` (n, words) -> (n, words, d + 2).

    For each word the mean of the transformer's last vectors over its tokens, then 1 where there is
    a word, and 1 where it is of the head, the entity that a question is about.

    ``encoder``  a transformer that reads ``ids`` and ``mask``.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = encoder.features + 2

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features (n, words, d + 2); ValueError for other inputs."""
        ids, mask, place, head = marked(inputs, ("ids", "mask", "place", "head"))
        vectors, _ = self.encoder.vectors({"ids": ids, "mask": mask})
        of = place[:, : vectors.shape[1]].unsqueeze(1) == torch.arange(
            head.shape[1], device=place.device
        ).unsqueeze(-1)  # (n, words, length): which tokens are of which word
        counts = of.sum(-1, keepdim=True).to(vectors.dtype)
        means = of.to(vectors.dtype) @ vectors / counts.clamp_min(1.0)
        known = counts.clamp_max(1.0)
        return torch.cat([means, known, known * head.unsqueeze(-1)], -1)


def marked(inputs: Any, names: tuple[str, ...]) -> list[Tensor]:
    """The leaves of ``inputs`` of these ``names``; ValueError unless it has just these, (n, ...)."""
    fits = isinstance(inputs, Mapping) and inputs.keys() == set(names)
    found = [inputs[name] for name in names] if fits else []
    if not found or not all(isinstance(leaf, Tensor) and leaf.ndim == 2 for leaf in found):
        what = dtype_and_shape(inputs)
        if isinstance(inputs, Mapping):
            what = f"a dict with {', '.join(map(repr, inputs)) or 'nothing'}"
        raise ValueError(
            f"text encoder: reads a dict of {', '.join(names)}, tensors (n, length) each; found "
            f"{what}. Make them by entity_tokens or question_tokens of quickstudy.datasets."
        )
    return found
