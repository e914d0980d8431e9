"""What translation is compared with: a memory, the nearest language, and that language rewritten.

Each is a learner of the same tasks. None learns from other tasks, and none has weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from quickstudy.answers.tokens import Tokens
from quickstudy.applications.rewriting import Rewriting
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.datasets.subwords import Subwords

BETWEEN = 3
"""The token between the English text of a source and its text in the nearest language."""

Pairs = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
Translate = Callable[[tuple[int, ...]], Sequence[int]]


class _Writer(Learner):
    """Maps a support set to a rule that writes tokens for the tokens of a source.

    State: the support's ``source`` and ``target`` tokens (n, length), and its ``weights``.
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Tokens,)
    exceptions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, subwords: str) -> None:
        super().__init__()
        self.subwords = subwords

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The pairs themselves."""
        return {
            "source": support.inputs["source"], "target": support.targets,
            "weights": support.weights,
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, t, V): 0 for the token that the rule writes at a place, else very small."""
        assert isinstance(spec.answer, Tokens)
        pairs: Pairs = tuple(
            (_ids(source), _ids(target, spec.answer.end))
            for source, target, weight in zip(
                state["source"].tolist(), state["target"].tolist(), state["weights"].tolist(),
                strict=True,
            )
            if weight > 0
        )  # fmt: skip
        translate = _remembered(type(self), self.subwords, pairs)
        n, length = inputs["before"].shape
        end = spec.answer.end or 0
        written = torch.full((n, length), end)
        for i, source in enumerate(inputs["source"].tolist()):
            row = list(translate(_ids(source)))[:length]
            written[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        logits = torch.full((n, length, spec.outputs), -30.0, dtype=state["weights"].dtype)
        return logits.scatter(-1, written.unsqueeze(-1), 0.0).to(inputs["before"].device)

    @staticmethod
    @abstractmethod
    def rule(subwords: Subwords, pairs: Pairs) -> Translate:
        """The rule that these pairs of tokens, without padding and end, teach."""


@final
class TranslationMemory(_Writer):
    """The translation of the support's most similar English text: a professional's first help.

    Similar are texts by the cosine of the counts of their runs of two to four characters.
    """

    @staticmethod
    def rule(subwords: Subwords, pairs: Pairs) -> Translate:
        """The target of the pair whose English is most similar."""
        known = [(runs(subwords.decode(english(source))), target) for source, target in pairs]
        return lambda source: _most_similar(runs(subwords.decode(english(source))), known)


@final
class NearestLanguage(_Writer):
    """The text in the nearest language as it is."""

    @staticmethod
    def rule(subwords: Subwords, pairs: Pairs) -> Translate:
        """The tokens after the one that divides a source."""
        return nearest


@final
class RewrittenNearest(_Writer):
    """The text in the nearest language, rewritten by rules for words and their ends."""

    @staticmethod
    def rule(subwords: Subwords, pairs: Pairs) -> Translate:
        """What :class:`Rewriting` makes of the nearest language's text."""
        rules = Rewriting.learn(
            [(subwords.decode(nearest(s)), subwords.decode(target)) for s, target in pairs]
        )
        return lambda source: subwords.encode(rules(subwords.decode(nearest(source))))


def english(source: Sequence[int]) -> tuple[int, ...]:
    """The tokens of a source before the one that divides it, without padding."""
    ids = tuple(token for token in source if token)
    return ids[: ids.index(BETWEEN)] if BETWEEN in ids else ids


def nearest(source: Sequence[int]) -> tuple[int, ...]:
    """The tokens of a source after the one that divides it; all where none does."""
    ids = tuple(source)
    return ids[ids.index(BETWEEN) + 1 :] if BETWEEN in ids else ids


def _ids(row: Sequence[int], end: int | None = None) -> tuple[int, ...]:
    """Tokens without padding (0 and -1), up to the end."""
    ids = [token for token in row if token > 0]
    return tuple(ids[: ids.index(end)] if end in ids else ids)


@lru_cache(maxsize=32)  # decoding asks for the same rows once for each token
def _remembered(kind: type[_Writer], subwords: str, pairs: Pairs) -> Translate:
    return lru_cache(maxsize=100_000)(kind.rule(_subwords(subwords), pairs))


@lru_cache(maxsize=4)
def _subwords(text: str) -> Subwords:
    return Subwords(text)


def runs(text: str) -> Counter[str]:
    """How often each run of two to four characters occurs, without regard to case."""
    text = f" {text.casefold()} "
    return Counter(text[i : i + n] for n in (2, 3, 4) for i in range(len(text) - n + 1))


def cosine(one: Counter[str], other: Counter[str]) -> float:
    """The cosine of two counts; 0 where one is empty."""
    norms = [sum(count * count for count in each.values()) for each in (one, other)]
    product = sum(count * other[run] for run, count in one.items())
    return float(product / max(norms[0] * norms[1], 1) ** 0.5)


def _most_similar(
    runs: Counter[str], known: Sequence[tuple[Counter[str], tuple[int, ...]]]
) -> tuple[int, ...]:
    return max(known, key=lambda each: cosine(runs, each[0]))[1] if known else ()
