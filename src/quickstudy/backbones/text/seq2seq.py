"""Seq2Seq: a transformer that reads one sequence of tokens and writes another."""

from __future__ import annotations

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.base.modules import values_can_be_read
from quickstudy.base.trees import dtype_and_shape

PADDING = 0
"""The token that fills up rows at their ends."""

HIDDEN = -1e30  # finite: a softmax over a row of which all is hidden must not be NaN
SMALLEST = 1e-9
"""Added to probabilities before their logarithm."""


@final
class Seq2Seq(nn.Module):
    """``{"source": (n, s), "before": (n, t)}`` -> log-probabilities of the next tokens (n, t, V).

    A transformer whose encoder reads the source and whose decoder writes from left to right: the
    prediction at place k depends on the source and on ``before`` up to k.

        x <- x + attend(norm(x)),   x <- x + feed_forward(norm(x))         in every layer
        written = softmax(norm(x_k) Eᵀ + b)                                of the decoder's last x
        copied  = Σ_j attention_kj [source_j = v]
        log p   = log(g written + (1 - g) copied),      g = sigmoid(w · norm(x_k) + c)

    The embeddings E of tokens are shared by the encoder, the decoder and the output. Words which
    are the same in both texts, such as names and placeholders, are copied: ``attention`` is the
    mean over the heads of the last layer's attention to the source.

    ``vocabulary``  number of tokens V; 0 is padding, 1 the start of a text and 2 its end.
    ``size``        width of the layers, even.
    ``layers``      of the encoder, and of the decoder.
    ``heads``       of each attention; must divide ``size``.
    ``copies``      whether tokens of the source can be copied.
    ``subwords``    the ``text`` of the :class:`~quickstudy.datasets.subwords.Subwords` that tokens
                    are made by, so that a file which has the network can read texts; or "".

    Raises ValueError for numbers that do not fit, and for inputs of another kind.

    Reference: Vaswani et al. (2017), Attention Is All You Need; Press and Wolf (2017), Using the
    Output Embedding to Improve Language Models (shared embeddings); See, Liu and Manning (2017),
    Get To The Point: Summarization with Pointer-Generator Networks, equations 8 and 9 (copying).
    Differs from these in norms that come before each part and have no weights, in GELU, and in the
    copying distribution, which is an attention of the decoder's own last layer.

    >>> import torch, quickstudy as qs
    >>> network = qs.backbones.Seq2Seq(vocabulary=20, size=8, heads=2)
    >>> tokens = {"source": torch.tensor([[5, 6, 0]]), "before": torch.tensor([[1, 7]])}
    >>> network(tokens).shape
    torch.Size([1, 2, 20])
    """

    def __init__(
        self,
        vocabulary: int,
        size: int = 128,
        layers: int = 2,
        heads: int = 4,
        copies: bool = True,
        subwords: str = "",
    ) -> None:
        super().__init__()
        if vocabulary < 4 or layers < 1 or heads < 1 or size < 2 or size % 2 or size % heads:
            raise ValueError(
                "Seq2Seq: needs vocabulary >= 4, layers >= 1, and an even size that heads divide; "
                f"found vocabulary={vocabulary}, layers={layers}, size={size}, heads={heads}."
            )
        self.vocabulary, self.size, self.layers = vocabulary, size, layers
        self.heads, self.copies, self.subwords = heads, copies, subwords
        self.outputs = vocabulary
        self.tokens = nn.Embedding(vocabulary, size)
        nn.init.normal_(self.tokens.weight, std=size**-0.5)
        self.encoder = nn.ModuleList(_Layer(size, heads, crossed=False) for _ in range(layers))
        self.decoder = nn.ModuleList(_Layer(size, heads, crossed=True) for _ in range(layers))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        if copies:
            self.gate = nn.Linear(size, 1)

    def forward(self, inputs: Any) -> Tensor:
        """Log-probabilities (n, t, V); they are 0 at places that are padding in every row.

        Padding at the end of all sources, or of all texts, costs no time.
        """
        source, whole = checked(inputs, self.vocabulary)
        source, before = _without_padding(source), _without_padding(whole)
        hidden = _bias(source == PADDING)
        read = self._embed(source)
        for layer in self.encoder:
            read = layer(read, hidden[:, None, None, :])[0]
        memory = _normalised(read)
        rows, places = self._embed(before), torch.arange(before.shape[1], device=before.device)
        later = _bias(places[None, :] > places[:, None])
        share = None
        for layer in self.decoder:
            rows, share = layer(rows, later, memory, hidden[:, None, None, :])
        found = self._log_probabilities(_normalised(rows), source, share)
        return F.pad(found, (0, 0, 0, whole.shape[1] - before.shape[1]))

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.tokens(ids)
        places = _places(ids.shape[1], self.size, embedded.device).to(embedded.dtype)
        return embedded * math.sqrt(self.size) + places

    def _log_probabilities(self, rows: Tensor, source: Tensor, share: Tensor | None) -> Tensor:
        scores = F.linear(rows, self.tokens.weight, self.bias)
        if not self.copies or share is None:
            return scores.log_softmax(-1)
        share = share.mean(1)
        ids = source[:, None, :].expand(share.shape)
        # scatter_add and not a product with one-hot sources: the latter is V times as large.
        copied = torch.zeros_like(scores).scatter_add(-1, ids, share)
        written = torch.sigmoid(self.gate(rows))
        return (written * scores.softmax(-1) + (1 - written) * copied + SMALLEST).log()


class _Layer(nn.Module):
    """Attention to the rows themselves and, if ``crossed``, to a memory; then a perceptron."""

    def __init__(self, size: int, heads: int, crossed: bool) -> None:
        super().__init__()
        self.own = _Attention(size, heads)
        if crossed:
            self.other = _Attention(size, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)
        )

    def forward(
        self, rows: Tensor, hidden: Tensor, memory: Tensor | None = None,
        hidden_memory: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Rows (n, t, size), and the shares of attention to the memory (n, heads, t, s)."""
        normal, share = _normalised(rows), None
        rows = rows + self.own(normal, normal, hidden)[0]
        if memory is not None and hidden_memory is not None:
            read, share = self.other(_normalised(rows), memory, hidden_memory)
            rows = rows + read
        result: Tensor = rows + self.feed_forward(_normalised(rows))
        return result, share


class _Attention(nn.Module):
    """Attention of ``heads`` heads; written out, since the fused one has no second derivative."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # the softmax does not depend on a bias
        self.value = nn.Linear(size, size)
        self.mix = nn.Linear(size, size)

    def forward(self, rows: Tensor, memory: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What ``rows`` (n, t, size) read in ``memory`` (n, s, size), and shares of attention."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in (self.query(rows), self.key(memory), self.value(memory))
        )
        share = (queries @ keys.mT * queries.shape[-1] ** -0.5 + hidden).softmax(-1)
        read: Tensor = self.mix((share @ values).transpose(-3, -2).flatten(-2))
        return read, share


def checked(inputs: Any, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The source (n, s) and the tokens before (n, t); ValueError where they are not tokens."""
    source, before = (
        (inputs["source"], inputs["before"])
        if isinstance(inputs, dict) and {"source", "before"} <= inputs.keys() else (None, None)
    )  # fmt: skip
    if not isinstance(source, Tensor) or not isinstance(before, Tensor):
        found = dtype_and_shape(inputs)
        if isinstance(inputs, dict):
            found = f"a dict with {', '.join(map(repr, inputs)) or 'nothing'}"
        raise ValueError(
            "Seq2Seq: reads a dict of tokens, source (n, s) and before (n, t); found "
            f"{found}. Make it of texts by Subwords.encode."
        )
    for name, ids in (("source", source), ("before", before)):
        whole = not ids.is_floating_point() and ids.dtype != torch.bool
        if ids.ndim != 2 or not whole:
            raise ValueError(
                f"Seq2Seq: {name} must be integers (n, length); found {dtype_and_shape(ids)}. "
                "Make it of texts by Subwords.encode."
            )
        if ids.numel() and values_can_be_read(ids):
            least, most = (int(bound) for bound in ids.aminmax())
            if least < 0 or most >= vocabulary:
                raise ValueError(
                    f"Seq2Seq: {name} must hold the tokens 0 to {vocabulary - 1}; found {least} "
                    f"to {most}. Make it by the subwords that the network was trained with."
                )
    return source, before


def _without_padding(ids: Tensor) -> Tensor:
    """``ids`` without the columns at the end that are padding in every row, if readable."""
    if not ids.numel() or not values_can_be_read(ids):
        return ids
    used = (ids != PADDING).any(0).nonzero()
    return ids[:, : int(used[-1]) + 1 if len(used) else 1]


def _bias(hidden: Tensor) -> Tensor:
    """What is added to scores of attention: nothing, or so little that the share is 0."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, HIDDEN)


def _normalised(rows: Tensor) -> Tensor:
    """Each vector with mean 0 and variance 1; written out, since second derivatives of torch's
    layer norm are wrong under vmap.
    """
    centred = rows - rows.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def _places(length: int, size: int, device: torch.device) -> Tensor:
    """Sines and cosines (length, size) of places, as in section 3.5 of the paper."""
    place = torch.arange(length, device=device, dtype=torch.float64)[:, None]
    rates = torch.exp(
        torch.arange(0, size, 2, device=device, dtype=torch.float64) * (-math.log(10_000.0) / size)
    )
    return torch.stack([(place * rates).sin(), (place * rates).cos()], -1).flatten(-2)
