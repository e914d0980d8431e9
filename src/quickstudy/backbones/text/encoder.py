"""A transformer as an encoder of text: tokens -> one vector of features for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from quickstudy.base.modules import values_can_be_read
from quickstudy.base.trees import dtype_and_shape
from quickstudy.datasets.tokenizer import TextTokenizer, Tokens

Pooling = Callable[[Tensor, Tensor], Tensor]
"""The last layer's vectors (n, length, d) and the mask (n, length) -> (n, d)."""


def mean_of_tokens(vectors: Tensor, mask: Tensor) -> Tensor:
    """Σ_t m_t v_t / Σ_t m_t: the mean (n, d) over the tokens of each text; 0 without any.

    >>> import torch
    >>> vectors = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mean_of_tokens(vectors, torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    m = mask.unsqueeze(-1).to(vectors.dtype)
    return (vectors * m).sum(-2) / m.sum(-2).clamp_min(1.0)


def first_token(vectors: Tensor, mask: Tensor) -> Tensor:
    """The vectors (n, d) of each text's first token, which BERT calls [CLS]."""
    return vectors[..., 0, :]


@final
class TextEncoder(nn.Module):
    """Tokens ``{"ids": (n, length), "mask": (n, length)}`` -> features (n, d).

    The vectors of the last layer of a transformer, pooled over the tokens of each text and, if
    ``normalised``, divided by their length, so that products of features are cosines. Padding
    changes nothing: masked tokens are neither attended to nor pooled.

    ``model``       a transformer of the package transformers that reads ``input_ids`` and
                    ``attention_mask`` and gives ``last_hidden_state``, with
                    ``attn_implementation="eager"``: torch's fused attention has no second
                    derivative on a CPU.
    ``tokenizer``   that of the model.
    ``pool``        :func:`mean_of_tokens` or :func:`first_token`; what the model was trained with.
    ``normalised``  whether features have length 1.

    >>> import quickstudy as qs
    >>> encoder = qs.pretrained("all-MiniLM-L6-v2")       # doctest: +SKIP
    >>> tokens = encoder.tokenize(["book a table", "what is my balance"])  # doctest: +SKIP
    >>> encoder(tokens).shape                             # doctest: +SKIP
    torch.Size([2, 384])

    Raises ValueError for a model without ``config.hidden_size`` and for another attention.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: TextTokenizer,
        *,
        pool: Pooling = mean_of_tokens,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        config = getattr(model, "config", None)
        size = getattr(config, "hidden_size", None)
        if not isinstance(size, int):
            raise ValueError(
                f"TextEncoder: needs a transformer whose config says hidden_size; found "
                f"{type(model).__name__}. Give a model of the package transformers."
            )
        attention = getattr(config, "_attn_implementation", "eager")
        if attention != "eager":
            raise ValueError(
                f"TextEncoder: needs attn_implementation='eager', since other attention has no "
                f"second derivative on a CPU; found {attention!r}. Load the model with it."
            )
        self.model, self.tokenizer = model, tokenizer
        self.pool, self.normalised = pool, normalised
        self.features = size
        self._words = int(getattr(config, "vocab_size", tokenizer.words))

    def tokenize(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """What :class:`TextTokenizer` makes of ``texts``: the inputs of this encoder."""
        return self.tokenizer(texts, length)

    def forward(self, tokens: Tokens) -> Tensor:
        """Features (n, d); ValueError for anything but tokens."""
        pooled = self.pool(*self.vectors(tokens))
        return to_unit_length(pooled) if self.normalised else pooled

    def vectors(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The last layer's vectors (n, length, d), and the mask (n, length), which is True at those
        of tokens; both without columns that are padding in every row.

        Raises ValueError for anything but tokens.
        """
        layers, mask = self.layers(tokens, 1)
        return layers[0], mask

    def layers(self, tokens: Tokens, last: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """The vectors (n, length, d) of the ``last`` layers, the final one last; and the mask.

        Raises ValueError for anything but tokens, and for more layers than there are.
        """
        ids, mask = checked_tokens(tokens, self._words)
        ids, mask = without_padding(ids, mask)
        refuse_other_lengths(ids, self.tokenizer.longest)
        dtype = next(self.model.parameters()).dtype
        # Added to the scores of attention (n, heads, from, to). Finite, so that a row without any
        # token has no NaN; of four dimensions, since for a mask of two transformers reads values,
        # which vmap has not.
        added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        added = added.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
        if last == 1:
            return (self.model(input_ids=ids, attention_mask=added).last_hidden_state,), mask
        found = self.model(input_ids=ids, attention_mask=added, output_hidden_states=True)
        if not 1 <= last < len(found.hidden_states):
            raise ValueError(
                f"TextEncoder: has {len(found.hidden_states) - 1} layers; asked for the last "
                f"{last}. Ask for fewer."
            )
        return tuple(found.hidden_states[-last:]), mask


def to_unit_length(vectors: Tensor) -> Tensor:
    """v / ‖v‖, and 0 for 0; (n, d).

    The square is bounded before its root, so that derivatives at 0 are 0, and not NaN.
    """
    return vectors * vectors.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()


def checked_tokens(tokens: Any, words: int) -> tuple[Tensor, Tensor]:
    """Ids (n, length) and mask (n, length) of ``tokens``; ValueError where they are not tokens."""
    ids, mask = (
        (tokens["ids"], tokens["mask"])
        if isinstance(tokens, dict) and tokens.keys() == {"ids", "mask"} else (None, None)
    )  # fmt: skip
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor):
        found = dtype_and_shape(tokens)
        if isinstance(tokens, dict):
            found = f"a dict with {', '.join(map(repr, tokens)) or 'nothing'}"
        raise ValueError(
            "text encoder: reads tokens, a dict of ids (n, length) and mask (n, length); found "
            f"{found}. Make them of texts: encoder.tokenize(texts)."
        )
    whole = not ids.is_floating_point() and ids.dtype != torch.bool
    if ids.ndim != 2 or mask.shape != ids.shape or not whole or mask.dtype != torch.bool:
        raise ValueError(
            "text encoder: ids must be integers (n, length), and mask booleans of that shape; "
            f"found ids {dtype_and_shape(ids)} and mask {dtype_and_shape(mask)}. Make them of "
            "texts: encoder.tokenize(texts)."
        )
    if ids.numel() and values_can_be_read(ids):
        least, most = (int(bound) for bound in ids.aminmax())
        if least < 0 or most >= words:
            raise ValueError(
                f"text encoder: ids must be 0 to {words - 1}, the words it knows; found {least} to "
                f"{most}. Make them by its own tokenize, not by that of another encoder."
            )
    return ids, mask


def refuse_other_lengths(ids: Tensor, longest: int) -> None:
    """ValueError unless the rows of ``ids`` (n, length) have 1 to ``longest`` tokens."""
    if not 1 <= ids.shape[1] <= longest:
        raise ValueError(
            f"text encoder: a text must have 1 to {longest} tokens; found {ids.shape[1]}. Make "
            "them of texts by its own tokenize, which cuts longer ones and says so."
        )


def without_padding(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the columns at the end that are padding in every row, where values can be read.

    They cost time and change nothing.
    """
    if not mask.numel() or not values_can_be_read(mask):
        return ids, mask
    used = mask.any(0).nonzero()
    width = int(used[-1]) + 1 if len(used) else 1
    return ids[:, :width], mask[:, :width]
