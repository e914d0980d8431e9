"""Rewriting: rules that turn text of one language into that of a near one, learnt from pairs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import pairwise

from quickstudy.datasets.subwords import PLACEHOLDER

PIECES = re.compile(rf"{PLACEHOLDER}|\w+|\s+|[^\w\s]")
LONGEST_CONTEXT = 3
"""The most characters before a changed end that a rule for ends looks at."""


@dataclass(frozen=True)
class Rewriting:
    """Texts of one language -> texts of another, word by word.

    Words of the pairs are aligned, in order, by how often they occur together and by how alike they
    are spelt. A text of the pairs is rewritten as its pair says; a word that was aligned, as the
    one it was most often aligned with; another word, by the rule for its longest end that two
    aligned words follow, and most of those with this end. All else stays, placeholders always.

    ``texts``  whole texts, without case.
    ``words``  words, without case.
    ``ends``   the ends of words.

    >>> rules = Rewriting.learn([("la nación", "a nazón"), ("una canción", "unha canzón")])
    >>> rules("La estación")
    'A estazón'
    """

    texts: dict[str, str]
    words: dict[str, str]
    ends: dict[str, str]

    @staticmethod
    def learn(pairs: Sequence[tuple[str, str]]) -> Rewriting:
        """The rules of pairs of texts."""
        words = _translations([(_words(one), _words(other)) for one, other in pairs])
        ends: dict[str, Counter[str]] = defaultdict(Counter)
        for one, other in words.items():
            for before, after in _ends(one, other):
                ends[before][after] += 1
        sure = {}
        for before, counts in ends.items():
            after, count = counts.most_common(1)[0]
            if count >= 2 and 2 * count >= counts.total():
                sure[before] = after
        return Rewriting({one.casefold(): other for one, other in pairs}, words, sure)

    def __call__(self, text: str) -> str:
        """The text rewritten."""
        known = self.texts.get(text.casefold())
        return known if known else "".join(map(self._word, PIECES.findall(text)))

    def _word(self, word: str) -> str:
        if re.fullmatch(PLACEHOLDER, word):
            return word
        low = word.casefold()
        new = self.words.get(low)
        if not _is_word(word):
            return word if new is None else new
        if new is None:
            new = low
            for start in range(1, len(low)):
                if low[start:] in self.ends:
                    new = low[:start] + self.ends[low[start:]]
                    break
        if word.isupper() and len(word) > 1:
            return new.upper()
        return new[:1].upper() + new[1:] if word[0].isupper() else new


def _words(text: str) -> list[str]:
    return [piece.casefold() for piece in PIECES.findall(text) if not piece.isspace()]


def _is_word(piece: str) -> bool:
    return piece[:1].isalnum() or piece[:1] == "_"


def _translations(pairs: Sequence[tuple[list[str], list[str]]]) -> dict[str, str]:
    """The word that each word is aligned with most often."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    likeness = _likeness(pairs)
    for one, other in pairs:
        aligned = _aligned(one, other, likeness)
        for i, j in aligned:
            counts[one[i]][other[j]] += 2
        # Words between two aligned ones, where both texts have as many, belong to one another.
        edges = [(-1, -1), *aligned, (len(one), len(other))]
        for (i, j), (k, m) in pairwise(edges):
            if k - i == m - j:
                for a, b in zip(one[i + 1 : k], other[j + 1 : m], strict=True):
                    if _is_word(a) and _is_word(b):
                        counts[a][b] += 1
    return {word: found.most_common(1)[0][0] for word, found in counts.items()}


def _likeness(pairs: Sequence[tuple[list[str], list[str]]]) -> Callable[[str, str], float]:
    """How likely two words are to belong together; below 0 where they are not."""
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for one, other in pairs:
        first.update(set(one))
        second.update(set(other))
        both.update((a, b) for a in set(one) for b in set(other))

    @cache
    def likeness(a: str, b: str) -> float:
        together = 2 * both[a, b] / (first[a] + second[b])  # Dice's coefficient
        spelt = 0.0
        if a == b:
            spelt = 1.0
        elif _is_word(a) and _is_word(b):
            spelt = SequenceMatcher(None, a, b, autojunk=False).ratio()
        return 0.6 * spelt + (0.6 if _is_word(a) == _is_word(b) else 0.2) * together - 0.25

    return likeness


def _aligned(
    one: Sequence[str], other: Sequence[str], likeness: Callable[[str, str], float]
) -> list[tuple[int, int]]:
    """Pairs of places, in order in both texts, with the greatest sum of likenesses."""
    best = [[0.0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + likeness(a, b))
    found = []
    i, j = len(one), len(other)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]


def _ends(one: str, other: str) -> list[tuple[str, str]]:
    """Ends of two words that begin alike: what differs, with up to three characters before it.

    Of equal words, the ends of up to five characters.
    """
    if not (_is_word(one) and _is_word(other)):
        return []
    if one == other:
        return [(one[k:], one[k:]) for k in range(max(1, len(one) - 5), len(one))]
    same = next(
        (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    if same < 2:
        return []
    starts = [same - back for back in range(LONGEST_CONTEXT + 1) if 1 <= same - back < len(one)]
    return [(one[k:], other[k:]) for k in starts]
