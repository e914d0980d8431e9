"""Tasks of translation: a task is one target language, its support some pairs of texts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from quickstudy.answers.tokens import Tokens
from quickstudy.applications.translation_baselines import cosine, runs
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.datasets.django_messages import Messages, almost_equal
from quickstudy.datasets.subwords import LONGEST, Subwords, before, padded
from quickstudy.tasks.examples import examples

START, END, BETWEEN = 1, 2, 3
"""Tokens of :mod:`quickstudy.datasets.subwords`."""
WIDTHS = (8, 12, 16, 24, 32, 48, 64)
"""Lengths that rows of a training task are padded to, so that tasks of about one length stack."""


@dataclass(frozen=True)
class Row:
    """One pair in tokens, without start and end."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def tag(language: str) -> str:
    """The name of the token that says which language to write."""
    return f"<{language}>"


def spec_of(subwords: Subwords, name: str = "") -> TaskSpec:
    """A task that writes texts of these subwords."""
    return TaskSpec(Tokens(subwords.size, "before", START, END, subwords.pieces), name)


def row_of(
    subwords: Subwords, tag_id: int, source: str, nearest: str = "", target: str = ""
) -> Row:
    """Tag, source and, where given, the text in the nearest language -> target."""
    ids = [tag_id, *subwords.encode(source)]
    if nearest:
        ids += [BETWEEN, *subwords.encode(nearest)]
    return Row(tuple(ids), tuple(subwords.encode(target)))


def rows_as_examples(
    rows: Sequence[Row], widths: tuple[int, int] | None = None, longest: int | None = None
) -> Examples:
    """Rows -> ``source`` (n, s), ``before`` (n, t), and targets (n, t) that end in the end token.

    ``widths``   s and t; by default those of the longest rows.
    ``longest``  t for rows whose target is not known, and has no tokens.
    """
    s, t = widths or (None, None)
    if longest is not None:
        given = torch.full((len(rows), longest), END)
        given[:, 1:] = -1
    else:
        given = padded([[*row.target, END] for row in rows], -1, t)
    inputs = {"source": padded([row.source for row in rows], 0, s), "before": before(given)}
    if longest is not None:
        inputs["before"] = torch.ones_like(given)
    return examples(inputs, given)


@dataclass(frozen=True)
class Languages:
    """Rows of several languages to train on: a source of tasks, each of one language.

    A task's rows are about equally long, since padding costs time: they follow one another in the
    order of their lengths, from a place drawn at random. Rows of more than 64 tokens are left out.

    ``rows``     by language.
    ``support``, ``query``   rows of a task.

    Raises ValueError where no row is left.
    """

    rows: dict[str, list[Row]]
    spec: TaskSpec
    support: int
    query: int
    _sorted: dict[str, list[Row]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = {
            name: sorted(
                (row for row in rows if _size(row) <= WIDTHS[-1]),
                key=lambda row: (_size(row), len(row.source)),
            )
            for name, rows in self.rows.items()
        }
        object.__setattr__(self, "_sorted", {n: rows for n, rows in ordered.items() if rows})
        if not self._sorted:
            raise ValueError(
                f"translation: training needs a pair of at most {WIDTHS[-1]} tokens; found none. "
                "Divide texts into sentences."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """A task of a language that is drawn at random."""
        names = sorted(self._sorted)
        name = names[int(torch.randint(len(names), (), generator=generator))]
        rows, needed = self._sorted[name], self.support + self.query
        # A run may begin before the first row, so that short rows are drawn as often as others.
        begin = int(torch.randint(-needed // 2, len(rows) - needed // 2, (), generator=generator))
        begin = min(max(begin, 0), max(len(rows) - needed, 0))
        chosen = rows[begin : begin + needed]
        order = torch.randperm(len(chosen), generator=generator).tolist()
        chosen = [chosen[i] for i in order]
        widths = (_width(max(len(r.source) for r in chosen)),
                  _width(max(len(r.target) for r in chosen) + 1))  # fmt: skip
        cut = max(1, len(chosen) * self.support // needed)
        return Task(
            rows_as_examples(chosen[:cut], widths),
            rows_as_examples(chosen[cut:] or chosen[:cut], widths),
            TaskSpec(self.spec.answer, name),
        )


def _size(row: Row) -> int:
    return max(len(row.source), len(row.target) + 1)


def _width(longest: int) -> int:
    return next((width for width in WIDTHS if width >= longest), longest)


def split_messages(messages: Messages, test: int, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the messages for training and of ``test`` or a few more for testing.

    Messages that differ in case, punctuation or a plural s alone are on one side.

    Raises ValueError where fewer than 20 would be left to train on.
    """
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(messages.english):
        groups.setdefault(almost_equal(text) or text, []).append(i)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    tested: list[int] = []
    while order and len(tested) < test:
        tested += order.pop()
    if len(messages.english) - len(tested) < 20:
        raise ValueError(
            f"translation: {test} of {len(messages.english)} sentences for the test leave fewer "
            "than 20 to train on. Lower messages, or give more sentences."
        )
    return sorted(i for group in order for i in group), sorted(tested)


def nearest_languages(
    messages: Messages, language: str, numbers: Sequence[int], among: Sequence[str]
) -> list[str]:
    """Languages ``among`` others in which these messages are spelt most alike, the nearest first.

    Alike are texts by the mean cosine of the counts of their runs of characters, over the messages
    that both languages have.

    Raises ValueError where no language has any of the messages.
    """
    own = messages.translations[language]
    counted = {i: runs(text) for i in numbers if (text := own[i])}
    likeness = {}
    for name in among:
        other = messages.translations[name]
        shared = [i for i in counted if other[i]]
        if name != language and len(shared) >= max(1, len(counted) // 2):
            total = sum(cosine(counted[i], runs(other[i] or "")) for i in shared)
            likeness[name] = total / len(shared)
    if not likeness:
        raise ValueError(
            f"translation: no other language has half of the {len(counted)} messages of "
            f"{language}, so none can be the nearest. Give more sentences in common."
        )
    return sorted(likeness, key=lambda name: -likeness[name])


def alike_in_letters(text: Sequence[str], among: dict[str, Counter[str]]) -> str:
    """The language whose texts have the most similar counts of runs of characters."""
    counts: Counter[str] = Counter()
    for each in text:
        counts.update(runs(each))
    return max(among, key=lambda name: cosine(counts, among[name]))


def too_long(rows: Sequence[Row], places: Sequence[str]) -> None:
    """ValueError for a row of more tokens than are read."""
    for row, place in zip(rows, places, strict=True):
        if max(len(row.source), len(row.target)) > LONGEST:
            size = max(len(row.source), len(row.target))
            raise ValueError(
                f"{place}: a text may have {LONGEST} tokens at most; found {size}. Divide it into "
                "sentences."
            )
