"""Sequences of tokens: a tag per word, or text generated token by token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count, check_ids, check_largest_id
from quickstudy.answers.classes import cross_entropy, one_hot
from quickstudy.answers.metrics import chrf, ngram_counts, token_f1
from quickstudy.base.counted_fields import ADDED
from quickstudy.base.trees import map_tree
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic

LONGEST_NGRAM = 6
"""The longest n-grams of chrF, as in its paper."""


@dataclass(frozen=True)
class TokenAccuracy(Score):
    """The share of tokens predicted correctly, each given the true tokens before it."""

    name: ClassVar[str] = "token accuracy"
    unit: ClassVar[str] = "%"

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``right`` and ``total``: weighted numbers of tokens."""
        known = (query.targets >= 0).to(query.weights.dtype)
        right = (predictions.argmax(-1) == query.targets).to(known.dtype) * known
        return {
            "right": (query.weights * right.sum(-1)).sum(-1),
            "total": (query.weights * known.sum(-1)).sum(-1),
        }

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]."""
        return statistic["right"] / statistic["total"]


@dataclass(frozen=True)
class _DecodedScore(Score):
    """A score of decoded rows; a row counts if any of its tokens is known.

    ``end``   the token that ends a row, if there is one.
    ``tags``  whether tokens belong to places, see :func:`comparable`.
    """

    end: int | None = None
    tags: bool = True
    unit: ClassVar[str] = "%"
    decoded: ClassVar[bool] = True
    while_training: ClassVar[bool] = False

    def _rows(
        self, predictions: Tensor, query: Examples
    ) -> Iterator[tuple[float, list[int], list[int]]]:
        """The weight, the predicted and the true tokens of each row that counts."""
        counts = (query.weights > 0) & (query.targets >= 0).any(-1)
        both = comparable(predictions[counts], query.targets[counts], self.end, self.tags)
        texts = ([[t for t in row if t >= 0] for row in tokens.tolist()] for tokens in both)
        return zip(query.weights[counts].tolist(), *texts, strict=True)


@dataclass(frozen=True)
class _DecodedRowScore(_DecodedScore):
    """The mean over decoded rows of a score per row."""

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``score`` and ``total``: the weighted sum over rows, and their weight."""
        score = total = 0.0
        for weight, predicted, true in self._rows(predictions, query):
            score, total = score + weight * self._row_score(predicted, true), total + weight
        sums = {"score": score, "total": total}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in sums.items()}

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]."""
        return statistic["score"] / statistic["total"]

    @abstractmethod
    def _row_score(self, predicted: list[int], true: list[int]) -> float:
        """The score of one row's tokens."""


@dataclass(frozen=True)
class ExactMatch(_DecodedRowScore):
    """The share of rows whose decoded tokens equal the true ones, length included."""

    name: ClassVar[str] = "exact match"

    def _row_score(self, predicted: list[int], true: list[int]) -> float:
        return float(predicted == true)


@dataclass(frozen=True)
class TokenF1(_DecodedRowScore):
    """F1 of the bags of decoded and true tokens; the mean over rows."""

    name: ClassVar[str] = "F1"

    def _row_score(self, predicted: list[int], true: list[int]) -> float:
        return token_f1(predicted, true)


@dataclass(frozen=True)
class ChrF(_DecodedScore):
    """chrF of decoded rows; n-grams are counted over all tasks.

    ``pieces``  what each token writes, see :class:`Tokens`: n-grams are of the characters of texts,
                without spaces. By default tokens are the characters.
    """

    pieces: str = ""
    name: ClassVar[str] = "chrF"
    pooled: ClassVar[bool] = True

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``counts`` (6, 3): numbers of shared, predicted and true n-grams, n = 1 … 6."""
        counts = torch.zeros(LONGEST_NGRAM, 3, dtype=torch.float64)
        for weight, predicted, true in self._rows(predictions, query):
            ours, theirs = (self._characters(tokens) for tokens in (predicted, true))
            counts += weight * torch.tensor(ngram_counts(ours, theirs, LONGEST_NGRAM))
        return {"counts": counts}

    def _characters(self, tokens: list[int]) -> list[int]:
        if not self.pieces:
            return tokens
        return [ord(c) for c in written(tokens, self.pieces) if not c.isspace()]

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]."""
        return chrf(statistic["counts"])


@dataclass(frozen=True)
class Tokens(Answer):
    """Tokens (n, length) of a vocabulary.

    Targets (n, length) integer ids, -1 after the end and where unknown; predictions (n, length,
    vocabulary) logits. The loss is cross-entropy; rows of different length are padded.

    ``vocabulary``  number of tokens.
    ``before``      None: all tokens are predicted at once (tags). Otherwise a key of the inputs, a
                    dict: its leaf (n, length) holds the token before each one. Text is then
                    generated from left to right, with one call of the predictor per token.
    ``start``       the token before the first.
    ``end``         the token that ends a row, not scored itself; None if there is none.
    ``pieces``      what each token writes, separated by spaces, in the alphabet of byte-level
                    subwords, see :func:`written`. Without it, tokens are characters, which makes a
                    difference to chrF alone.

    Scores are token accuracy and, for the decoded text, exact match, F1 and chrF; which decoded
    tokens these compare, :func:`comparable` says.

    Raises ValueError for a vocabulary of fewer than 2 tokens, for tokens outside it, and for
    another number of pieces.
    """

    vocabulary: int
    before: str | None = None
    start: int = 0
    end: int | None = None
    pieces: str = field(default="", repr=False, metadata=ADDED)
    kind: ClassVar[str] = "tokens"
    guess_name: ClassVar[str] = "commonest token of the support"
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("Tokens", "vocabulary", self.vocabulary, 2)
        for name, token in (("start", self.start), ("end", self.end)):
            if token is not None and not 0 <= token < self.vocabulary:
                raise ValueError(
                    f"Tokens: {name} must be one of the {self.vocabulary} tokens; found {token}."
                )
        if self.pieces and self.pieces.count(" ") + 1 != self.vocabulary:
            raise ValueError(
                f"Tokens: pieces must be {self.vocabulary}, one for each token, separated by "
                f"spaces; found {self.pieces.count(' ') + 1}. Take Subwords.pieces."
            )

    @property
    def outputs(self) -> int:
        """The size of the vocabulary."""
        return self.vocabulary

    def check(self, targets: Any, what: str = "targets") -> None:
        """Integer ids (n, length)."""
        check_ids(targets, what, "a sequence task", ("n", "length"),
                  "Give one row of token ids for each, -1 after its end.")  # fmt: skip

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No id of ``vocabulary`` or more."""
        check_largest_id(targets, what, self.vocabulary, "Give the size of the whole vocabulary.")

    def known(self, targets: Tensor) -> Tensor:
        """(n, length): which tokens are known."""
        return targets >= 0

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(predictions)[target] of each token: (n, length)."""
        return cross_entropy(predictions, targets)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """One-hot tokens (n, length, vocabulary), zeros where unknown."""
        return one_hot(targets, self.vocabulary, dtype or torch.get_default_dtype())

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """The most probable tokens (n, length), -1 from the end token on.

        With ``before``, decoding is greedy: each token is predicted from the tokens decoded so far,
        which take the place of that leaf of the inputs. Its length is the most that is decoded.
        """
        if self.before is None:
            return _cut_at_end(predictor(inputs).argmax(-1), self.end)
        return _cut_at_end(self._generated(predictor, inputs, self.before), self.end)

    def _generated(self, predictor: Predictor, inputs: Any, name: str) -> Tensor:
        """Tokens (n, length), -1 after the end, from predictions for what was decoded before.

        Rows that have ended are predicted no more, unless predictions depend on the other rows.
        """
        given: Tensor = inputs[name]
        chosen = torch.full_like(given, -1)
        rows = torch.arange(len(given), device=given.device)
        before = torch.full_like(given[:, :1], self.start)
        for t in range(given.shape[1]):
            chosen[rows, t] = predictor({**inputs, name: before})[:, t].argmax(-1)
            if self.end is not None and not predictor.learner.transductive:
                going = chosen[rows, t] != self.end
                if not bool(going.any()):
                    break
                rows, before = rows[going], before[going]
                inputs = map_tree(lambda leaf, going=going: leaf[going], inputs)
            before = torch.cat([before, chosen[rows, t].unsqueeze(1)], 1)
        return chosen

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """(n, length, vocabulary)."""
        return (*targets.shape, self.vocabulary)

    @property
    def scores(self) -> tuple[Score, ...]:
        """Token accuracy; exact match, F1 and chrF of the decoded text."""
        of_text = (self.end, self.before is None)
        return TokenAccuracy(), ExactMatch(*of_text), TokenF1(*of_text), ChrF(*of_text, self.pieces)

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """The commonest token of the support, at every place."""
        counts = one_hot(support.targets, self.vocabulary, support.weights.dtype).sum(1)
        logits = one_hot((support.weights @ counts).argmax(), self.vocabulary, counts.dtype)
        return [logits.expand(self.prediction_shape(query.targets))]


def comparable(
    predicted: Tensor, true: Tensor, end: int | None, tags: bool
) -> tuple[Tensor, Tensor]:
    """Decoded and true tokens (n, length) as scores compare them, with -1 in place of all others.

    Both rows stop before their first ``end``. Predictions for unknown tokens, padding included, are
    left out. The one exception is text that is generated until ``end``, which may be too long: it
    counts up to the last place that any of the true rows has.
    """
    true = true.long()  # an unsigned type has no -1
    known = true >= 0
    compared = known
    if end is not None and not tags:
        after_last = known.flip(1).cumsum(1).flip(1) == 0
        compared = known | (after_last & known.any(0))
    predicted = predicted.masked_fill(~compared, -1)
    return _cut_at_end(predicted, end), _cut_at_end(true, end)


def _cut_at_end(tokens: Tensor, end: int | None) -> Tensor:
    """``tokens`` (n, length) with -1 from the first ``end`` on."""
    if end is None:
        return tokens
    return tokens.masked_fill((tokens == end).cumsum(1) > 0, -1)


def written(tokens: Iterable[int], pieces: str) -> str:
    """The text of ``tokens``; -1, and tokens that write nothing, are left out.

    ``pieces``  one for each token, separated by spaces. A piece is bytes of UTF-8, each written as
                one character: that of its number where this can be seen, else the next one of
                those from 256 on (Radford et al., 2019).
    """
    each, number = _pieces(pieces)
    text = "".join(each[token] for token in tokens if token >= 0)
    return bytes(number[c] for c in text).decode("utf-8", errors="replace")


@lru_cache(maxsize=8)
def _pieces(pieces: str) -> tuple[list[str], dict[str, int]]:
    """The pieces, and the byte that each character stands for."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [b for b in range(256) if b not in seen]
    number = {chr(b): b for b in seen} | {chr(256 + k): b for k, b in enumerate(unseen)}
    return pieces.split(" "), number
