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
    """``{"ids", "mask", "head", "tail"}`` (n, length) each -> features (n, 4 d).

    What a sentence says, and of whom: the mean of the transformer's vectors over the tokens of the
    sentence, of the head, of the tail, and of what stands between these two (0 where they touch).
    Each is a mean over the ``last`` layers, of vectors of length 1, and has length 1 itself.

    ``encoder``  a transformer that reads ``ids`` and ``mask``.
    ``last``     layers of it. The very last ones are trained for the meaning of whole sentences.

    Baldini Soares et al. (2019), Matching the Blanks, compare such ways to represent a relation;
    this is their "mention pooling", with the mean instead of the largest value of each feature, and
    with the sentence and the words between beside the mentions.
    """

    def __init__(self, encoder: TextEncoder, last: int = 3) -> None:
        super().__init__()
        self.encoder, self.last = encoder, last
        self.features = 4 * encoder.features

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features (n, 4 d); ValueError for other inputs."""
        ids, mask, head, tail = marked(inputs, ("ids", "mask", "head", "tail"))
        layers, mask = self.encoder.layers({"ids": ids, "mask": mask}, self.last)
        width = mask.shape[1]
        head, tail = head[:, :width], tail[:, :width]
        parts = (mask, head, tail, between(head, tail) & mask)
        pooled = [
            sum(to_unit_length(mean_of_tokens(vectors, part)) for vectors in layers)
            for part in parts
        ]
        return torch.cat([to_unit_length(part) for part in pooled], -1)


def between(head: Tensor, tail: Tensor) -> Tensor:
    """The tokens between two entities, of masks (n, length) each.

    >>> import torch
    >>> between(torch.tensor([[1, 0, 0, 0, 0]]).bool(), torch.tensor([[0, 0, 0, 1, 0]]).bool())
    tensor([[False,  True,  True, False, False]])
    """
    either = (head | tail).long()
    begun = either.cumsum(-1) > 0
    goes_on = either.flip(-1).cumsum(-1).flip(-1) > 0
    return begun & goes_on & (either == 0)


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
    """The leaves (n, ...) of ``inputs`` by their ``names``; ValueError unless it has just these."""
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
