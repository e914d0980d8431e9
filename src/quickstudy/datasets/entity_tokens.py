"""Sentences of words -> tokens that know their word, with the tokens of two entities marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.words import count
from quickstudy.datasets.tokenizer import TextTokenizer


class Marked(Protocol):
    """A sentence of which the places of two entities' words are known."""

    @property
    def words(self) -> Sequence[str]:
        """The words of the sentence."""
        ...

    @property
    def head(self) -> Sequence[int]:
        """The places of the words of the first entity."""
        ...

    @property
    def tail(self) -> Sequence[int]:
        """The places of the words of the second entity."""
        ...


def entity_tokens(
    tokenizer: TextTokenizer, sentences: Sequence[Marked], where: Sequence[str] = ()
) -> dict[str, Tensor]:
    """``ids``, ``mask``, ``head`` and ``tail`` (n, length): the inputs of an encoder of relations.

    ``head`` and ``tail`` are True at the tokens of the entity's words.

    ``where``  how errors call each sentence, such as "new.csv, line 3"; by default by its number.

    Raises ValueError where a place is outside of its sentence, or where the entity's tokens are
    beyond those that the encoder reads; and what :meth:`TextTokenizer.of_words` raises.
    """
    for row, each in enumerate(sentences):
        refuse_outside(each.head, len(each.words), f"the head of {_called(where, row)}")
        refuse_outside(each.tail, len(each.words), f"the tail of {_called(where, row)}")
    tokens = tokenizer.of_words([each.words for each in sentences])
    places = tokens.pop("place")
    for name in ("head", "tail"):
        marked = torch.stack([
            torch.isin(places[row], torch.tensor(list(getattr(each, name))))
            for row, each in enumerate(sentences)
        ])  # fmt: skip
        lost = (~marked.any(1)).nonzero().flatten().tolist()
        if lost:
            raise ValueError(
                f"tokens: every entity must be within the {tokenizer.longest} tokens that are "
                f"read, but the {name} of {_called(where, lost[0])} is not"
                f"{f', nor {len(lost) - 1} more' if len(lost) > 1 else ''}. Shorten the sentence."
            )
        tokens[name] = marked
    return tokens


def _called(where: Sequence[str], row: int) -> str:
    return where[row] if where else f"sentence {row}"


def refuse_outside(places: Sequence[int], words: int, what: str) -> None:
    """ValueError unless ``places`` are those of some of so many ``words``."""
    if not places:
        raise ValueError(f"{what}: must have at least 1 word; found none. Mark its words.")
    wrong = [place for place in places if not 0 <= place < words]
    if wrong:
        raise ValueError(
            f"{what}: places of words must be 0 to {words - 1}, since the sentence has "
            f"{count(words, 'word')}; found {shown(wrong[0])}. Count words from 0."
        )


def question_tokens(
    tokenizer: TextTokenizer, sentences: Sequence[Marked], questions: Sequence[str] | None = None,
    where: Sequence[str] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """``ids``, ``mask`` and ``place`` (n, length), and ``head`` (n, words): inputs of words' encoders.

    ``place`` is the number of each token's word, -1 for others; ``head`` is True at the words of
    what is asked about.

    ``questions``  texts before the sentences, as in :meth:`TextTokenizer.of_words`.
    ``where``      as for :func:`entity_tokens`.

    Raises ValueError for a head outside of its sentence, or none, and what ``of_words`` raises.
    """  # noqa: E501
    for row, each in enumerate(sentences):
        refuse_outside(each.head, len(each.words), f"the head of {_called(where, row)}")
    tokens = tokenizer.of_words([each.words for each in sentences], questions)
    head = torch.zeros(len(sentences), int(tokens["place"].max()) + 1, dtype=torch.bool)
    for row, each in enumerate(sentences):
        head[row, [place for place in each.head if place < head.shape[1]]] = True
    return {**tokens, "head": head}


def spans_of(sentences: Sequence[Marked], place: Tensor, where: Sequence[str] = ()) -> Tensor:
    """(n, 2): the first and the last word of each sentence's tail, where its answer is.

    ``place``  (n, length), of its tokens, as :func:`question_tokens` gives it.
    ``where``  as for :func:`entity_tokens`.

    Raises ValueError for a tail outside of its sentence, for words that do not follow one another,
    and for a span beyond the tokens that are read.
    """
    found = []
    for row, each in enumerate(sentences):
        answer = f"the answer of {_called(where, row)}"
        refuse_outside(each.tail, len(each.words), answer)
        first, last = min(each.tail), max(each.tail)
        if len({*each.tail}) != last - first + 1:
            raise ValueError(
                f"{answer}: must be words that follow one another; found "
                f"{shown([*each.tail])}. Give one span."
            )
        read = int(place[row].max()) + 1
        if last >= read:
            raise ValueError(
                f"{answer}: must be within the tokens that are read; found "
                f"word {last}, but only {count(read, 'word')} are. Shorten the sentence."
            )
        found.append((first, last))
    return torch.tensor(found)
