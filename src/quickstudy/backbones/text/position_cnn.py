"""A convolutional encoder of the relation between two entities, with position features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.backbones.text.encoder import mean_of_tokens
from quickstudy.backbones.text.entities import marked
from quickstudy.base.arguments import typed


@final
class PositionCNN(nn.Module):
    """``{"ids", "mask", "head", "tail"}`` (n, length) each -> features (n, hidden + 6 size).

        x_t  = [embedding of token t; of its distance to the head; of its distance to the tail]
        m    = max over t of W1 [x_{t-1}; x_t; x_{t+1}]
        g    = tanh(W2 m)                                            the sentence
        l    = embeddings of head and tail, and of the tokens left and right of each
        f(x) = [g; l]

    ``words``      size of the vocabulary.
    ``size``       of the embedding of a token.
    ``distance``   size of the embedding of a distance.
    ``farthest``   distances are cut at this many tokens.
    ``filters``    of the convolution over three tokens.
    ``hidden``     size of g.

    Without pretrained weights. :meth:`start_from` begins with embeddings that were learnt elsewhere,
    as the paper does.

    Reference: Zeng, Liu, Lai, Zhou and Zhao (2014), Relation Classification via Convolutional Deep
    Neural Network, sections 3.3 to 3.5.
    Differs from the paper: no WordNet hypernyms among the lexical features; entities of several
    tokens have the mean of their embeddings; tokens are pieces of words. The softmax layer on top
    is the learner's.

    >>> import torch
    >>> cnn = PositionCNN(words=100, size=8)
    >>> ids, no = torch.tensor([[5, 7, 9]]), torch.zeros(1, 3, dtype=torch.bool)
    >>> head, tail = no.clone(), no.clone()
    >>> head[0, 0] = tail[0, 2] = True
    >>> cnn({"ids": ids, "mask": ~no, "head": head, "tail": tail}).shape
    torch.Size([1, 148])

    Raises ValueError for sizes below 1.
    """  # noqa: E501

    @typed
    def __init__(
        self, words: int = 30522, size: int = 50, distance: int = 5, farthest: int = 30,
        filters: int = 200, hidden: int = 100,
    ) -> None:  # fmt: skip
        super().__init__()
        check_widths(
            "PositionCNN", words=words, size=size, distance=distance, farthest=farthest,
            filters=filters, hidden=hidden,
        )  # fmt: skip
        self.words, self.size, self.distance, self.farthest = words, size, distance, farthest
        self.filters, self.hidden = filters, hidden
        self.features = hidden + 6 * size
        self.embedding = nn.Embedding(words, size)
        self.to_head = nn.Embedding(2 * farthest + 1, distance)
        self.to_tail = nn.Embedding(2 * farthest + 1, distance)
        self.convolution = nn.Linear(3 * (size + 2 * distance), filters)
        self.second = nn.Linear(filters, hidden)

    def start_from(self, embeddings: Tensor) -> PositionCNN:
        """Begin with ``embeddings`` (words, d), d at least ``size``; returns the network.

        They are reduced to their first ``size`` principal components, and scaled to the variance 1
        that new embeddings have.

        Raises ValueError for another shape.
        """
        if embeddings.ndim != 2 or len(embeddings) != self.words or embeddings.shape[1] < self.size:
            raise ValueError(
                f"PositionCNN: needs embeddings ({self.words}, {self.size} or more); found "
                f"{tuple(embeddings.shape)}. Give those of the same vocabulary."
            )
        with torch.no_grad():
            centred = embeddings.double() - embeddings.double().mean(0)
            _, vectors = torch.linalg.eigh(centred.mT @ centred)
            components = centred @ vectors[:, -self.size :].flip(1)
            self.embedding.weight.copy_(components / components.std())
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features (n, hidden + 6 size); ValueError for other inputs."""
        ids, mask, head, tail = marked(inputs, ("ids", "mask", "head", "tail"))
        words = self.embedding(ids) * mask.unsqueeze(-1)
        x = torch.cat(
            [words, self.to_head(self._distances(head)), self.to_tail(self._distances(tail))], -1
        )
        x = x * mask.unsqueeze(-1)
        none = torch.zeros_like(x[:, :1])
        three = torch.cat([torch.cat([none, x[:, :-1]], 1), x, torch.cat([x[:, 1:], none], 1)], -1)
        maps = self.convolution(three).masked_fill(~mask.unsqueeze(-1), -1e4)
        g = self.second(maps.amax(1)).tanh()
        lexical = [
            mean_of_tokens(words, part & mask)
            for entity in (head, tail)
            for part in (entity, _left(entity), _right(entity))
        ]
        return torch.cat([g, *lexical], -1)

    def _distances(self, entity: Tensor) -> Tensor:
        """(n, length): the distance of each token to the entity's first one, 0 for the farthest."""
        place = torch.arange(entity.shape[1], device=entity.device)
        first = entity.long().argmax(1, keepdim=True)
        return (place - first).clamp(-self.farthest, self.farthest) + self.farthest


def _left(entity: Tensor) -> Tensor:
    """Where the token to the right is the entity's first one."""
    shifted = torch.cat([entity[:, 1:], torch.zeros_like(entity[:, :1])], 1)
    return shifted & ~entity


def _right(entity: Tensor) -> Tensor:
    """Where the token to the left is the entity's last one."""
    shifted = torch.cat([torch.zeros_like(entity[:, :1]), entity[:, :-1]], 1)
    return shifted & ~entity
