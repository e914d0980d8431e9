"""The messages of a run of translation: what is trained on, what is tested, and the subwords."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from quickstudy.applications.languages import (
    Languages,
    Row,
    alike_in_letters,
    nearest_languages,
    row_of,
    rows_as_examples,
    spec_of,
    split_messages,
    tag,
    too_long,
)
from quickstudy.applications.registry import OWN
from quickstudy.applications.translation_baselines import runs
from quickstudy.base.shown import shown
from quickstudy.core import Task, TaskSource
from quickstudy.datasets import django_messages
from quickstudy.datasets.django_messages import Messages
from quickstudy.datasets.sentence_pairs import read_languages
from quickstudy.datasets.subwords import Subwords

PROTOCOLS = {
    "unseen": "English is given, and no language has shown the messages of the test",
    "seen": "English is given, and training has seen the messages of the test in other languages",
    "nearest": "English and the nearest language are given, and training has seen the messages of "
    "the test in other languages",
}
HELD_OUT = "gl,sk,af,uk,nn"
TRAINING = "es,es_AR,pt,pt_BR,ca,ast,it,fr,ro,cs,pl,hr,sr_Latn,sl,ru,be,bg,sr,mk,nl,de,nb,da,sv"
"""Romance, Slavic and Germanic languages: each held-out one has relatives among them."""


class Options(Protocol):
    """The options of :class:`~quickstudy.applications.translation.Translation` that decide it."""

    @property
    def protocol(self) -> str:
        """One of :data:`PROTOCOLS`."""

    @property
    def held_out(self) -> str:
        """Codes of the languages to test on."""

    @property
    def languages(self) -> str:
        """Codes of those to train on."""

    @property
    def messages(self) -> int:
        """How many are kept for the test."""

    @property
    def subwords(self) -> int:
        """The number of tokens."""


@dataclass(frozen=True)
class TranslationData:
    """The messages, their split, and the subwords, for one run."""

    protocol: str
    messages: Messages
    train: list[int]
    test: list[int]
    languages: tuple[str, ...]
    held_out: tuple[str, ...]
    subwords: Subwords
    shots: int

    @staticmethod
    def of(
        options: Options, data: str, root: Path | None, shots: int, seed: int
    ) -> TranslationData:
        """Load, split, and learn subwords from the training languages alone."""
        if data == OWN:
            if root is None:
                raise ValueError("translation: needs a folder of tables. Give it: --root FOLDER.")
            messages = read_languages(root)
        else:
            messages = django_messages.load(root)
        held = _codes(options.held_out or (HELD_OUT if data != OWN else ""), messages)
        if not held:
            names = sorted(messages.translations)
            held = tuple(names[-max(1, len(names) // 5) :])
        languages = _codes(options.languages or (TRAINING if data != OWN else ""), messages)
        languages = languages or tuple(n for n in sorted(messages.translations) if n not in held)
        if both := sorted(set(languages) & set(held)):
            raise ValueError(
                f"translation: {', '.join(both)} cannot be both trained and tested on. Leave it "
                "out of languages, or of held_out."
            )
        if not languages:
            raise ValueError(
                "translation: needs a language to train on beside those to test on; found "
                f"{', '.join(held)} held out, and no other. Leave one out of held_out."
            )
        test = min(options.messages, len(messages.english) // 3)
        train, test_numbers = split_messages(messages, test, seed)
        shown_numbers = train if options.protocol == "unseen" else [*train, *test_numbers]
        texts = [messages.english[i] for i in shown_numbers for _ in range(4)]
        for name in languages:
            texts += [t for i in shown_numbers if (t := messages.translations[name][i])]
        subwords = Subwords.learn(texts, options.subwords, [tag(name) for name in languages])
        return TranslationData(
            options.protocol, messages, train, test_numbers, languages, held, subwords, shots
        )

    @property
    def shown(self) -> list[int]:
        """The messages that training sees in the training languages."""
        return self.train if self.protocol == "unseen" else sorted([*self.train, *self.test])

    def training(self, support: int, query: int) -> TaskSource:
        """Tasks of the training languages."""
        rows = {}
        for name in self.languages:
            near = self.near(name, self.train[:60])[:2] if self.protocol == "nearest" else [""]
            rows[name] = [
                row for other in near for i in self.shown
                if (row := self.row(name, name, other, i)) is not None
            ]  # fmt: skip
        return Languages(rows, spec_of(self.subwords), support, query)

    def near(self, language: str, numbers: Sequence[int]) -> list[str]:
        """Training languages, the nearest first, chosen on these messages."""
        return nearest_languages(self.messages, language, numbers, self.languages)

    def row(self, language: str, tag_of: str, near: str, number: int) -> Row | None:
        """A message as a row; None where the language, or the nearest one, lacks it."""
        target = self.messages.translations[language][number]
        other = self.messages.translations[near][number] if near else ""
        if not target or other is None:
            return None
        source = self.messages.english[number]
        return row_of(self.subwords, self.subwords.names[tag(tag_of)], source, other, target)

    def task(self, language: str, seed: int) -> Task:
        """Pairs of a held-out language, drawn by ``seed``, and the messages of the test."""
        have = [i for i in self.train if self.messages.translations[language][i]]
        order = torch.randperm(len(have), generator=torch.Generator().manual_seed(seed))
        given = [have[i] for i in order.tolist()]
        if self.protocol == "nearest":
            ranked = self.near(language, given[: self.shots])
            near, tag_of = ranked[0], ranked[min(1, len(ranked) - 1)]
        else:
            counts: dict[str, Counter[str]] = {}
            for name in self.languages:
                counts[name] = Counter()
                for i in self.train:
                    counts[name].update(runs(self.messages.translations[name][i] or ""))
            texts = [str(self.messages.translations[language][i]) for i in given[: self.shots]]
            near, tag_of = "", alike_in_letters(texts, counts)
        rows = [row for i in given if (row := self.row(language, tag_of, near, i)) is not None]
        asked = [row for i in self.test if (row := self.row(language, tag_of, near, i)) is not None]
        if not rows or not asked:
            raise ValueError(
                f"translation: {language} has too few messages in common with {near or 'English'}. "
                "Give more, or leave it out of held_out."
            )
        where = f"translation: {language}"
        every = [*rows[: self.shots], *asked]
        too_long(every, [where] * len(every))
        spec = spec_of(self.subwords, language)
        return Task(rows_as_examples(rows[: self.shots]), rows_as_examples(asked), spec)


def _codes(text: str, messages: Messages) -> tuple[str, ...]:
    codes = tuple(dict.fromkeys(code.strip() for code in text.split(",") if code.strip()))
    unknown = [code for code in codes if code not in messages.translations]
    if unknown:
        raise ValueError(
            f"translation: languages must be codes of the data; found {shown(unknown[0])}. "
            f"Known are {', '.join(sorted(messages.translations))}."
        )
    return codes
