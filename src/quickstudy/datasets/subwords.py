"""Subwords: texts -> tokens and back, for networks that read and write text of any language."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from quickstudy.base.extras import optional
from quickstudy.base.shown import told

SPECIAL = ("<padding>", "<start>", "<end>", "<between>")
"""The first four tokens, 0 to 3: behind the end of a source; before a text that is written; after
it; and between two texts of one source.
"""
PLACEHOLDER = r"%\(\w*\)[#0\- +]?[a-zA-Z]|%[a-zA-Z%]|\{[^{}\s]*\}|<[^<>]*>"
"""Parts of messages that a program fills in: %(name)s, %d, {name}, and tags of HTML."""
LONGEST = 256
"""The most tokens of a text; attention to all pairs of more would take long."""


@final
@dataclass(frozen=True)
class Subwords:
    """Texts -> rows of tokens, by the commonest pieces of words (byte-pair encoding).

    Pieces are made of bytes, so that texts of every language and script can be written, also of
    those that no text had which the pieces were learnt from. Placeholders such as ``%(name)s`` and
    ``{}`` are cut out before words are, so that they are written alike wherever they stand.

    ``text``  a ``tokenizer.json`` of the package tokenizers, as :meth:`learn` makes it.

    Needs the extra ``translation``. Raises ValueError for other text.

    Reference: Sennrich, Haddow and Birch (2016), Neural Machine Translation of Rare Words with
    Subword Units; pieces of bytes as in Radford et al. (2019), Language Models are Unsupervised
    Multitask Learners.

    >>> subwords = Subwords.learn(["open the file", "close the file"], 300)
    >>> subwords.decode(subwords.encode("open {name}"))
    'open {name}'
    """

    text: str

    @staticmethod
    def learn(texts: Iterable[str], size: int, names: Sequence[str] = ()) -> Subwords:
        """Pieces of ``texts``: the same ones for the same texts.

        ``size``   the number of tokens, special ones included: at least 256, one for each byte,
                   and those.
        ``names``  of special tokens such as ``"<es>"``, which no text is cut into: 4, 5, …
        """
        special = [*SPECIAL, *names]
        if size < 256 + len(special):
            raise ValueError(
                f"Subwords: size must be at least {256 + len(special)}, one token for each byte "
                f"and {len(special)} special ones; found {size}. Give a larger one."
            )
        made = _tokenizers()
        tokenizer = made.Tokenizer(made.models.BPE())
        bytes_of = made.pre_tokenizers.ByteLevel
        tokenizer.pre_tokenizer = made.pre_tokenizers.Sequence(
            [
                made.pre_tokenizers.Split(made.Regex(PLACEHOLDER), "isolated"),
                bytes_of(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = made.decoders.ByteLevel()
        trainer = made.trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, show_progress=False,
            initial_alphabet=sorted(bytes_of.alphabet()),
        )  # fmt: skip
        tokenizer.train_from_iterator(texts, trainer)
        return Subwords(tokenizer.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        made = _tokenizers()
        try:
            tokenizer = made.Tokenizer.from_str(self.text)
        except Exception as error:  # the reader raises Exception itself for what it cannot read
            raise ValueError(
                f"Subwords: must be a tokenizer.json of the package tokenizers ({told(error)}). "
                "Make it by Subwords.learn."
            ) from error
        # A text that holds "<end>" is text: special tokens are asked for by their ids alone.
        tokenizer.encode_special_tokens = True
        return tokenizer

    @property
    def size(self) -> int:
        """The number of tokens."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def digest(self) -> str:
        """SHA-256 of the description, whose tokens are those of the same weights alone."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def names(self) -> dict[str, int]:
        """The special tokens by name."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {str(each.content): int(i) for i, each in sorted(added.items())}

    @cached_property
    def pieces(self) -> str:
        """What each token writes, for :class:`quickstudy.answers.Tokens`."""
        special = set(self.names.values())
        return " ".join(
            "" if i in special else self._tokenizer.id_to_token(i) for i in range(self.size)
        )

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens; special ones, and -1, write nothing."""
        special = {-1, *self.names.values()}
        return str(self._tokenizer.decode([i for i in ids if i not in special]))


def padded(rows: Sequence[Sequence[int]], filler: int, length: int | None = None) -> Tensor:
    """Rows of tokens as one tensor (n, length), filled up at their ends."""
    width = max([1, *map(len, rows)]) if length is None else length
    return torch.tensor([[*row[:width], *[filler] * (width - len(row))] for row in rows])


def before(targets: Tensor) -> Tensor:
    """The token before each of ``targets`` (n, length): 1, the start, before the first.

    0, padding, before those that are unknown, unless a known one is before them.
    """
    start = torch.ones_like(targets[:, :1])
    return torch.cat([start, targets[:, :-1].clamp_min(0)], 1)


def _tokenizers() -> Any:
    made = optional("tokenizers", "translation", "Subwords")
    for part in ("models", "pre_tokenizers", "decoders", "trainers"):
        optional(f"tokenizers.{part}", "translation", "Subwords")
    return made
