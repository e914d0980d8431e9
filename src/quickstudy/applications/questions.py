"""Questions: which words of a text answer a question, of which a few answers are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from quickstudy.answers.specs import spans
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.encoding import ENCODER, cutting, encoded, seeded, text_encoder
from quickstudy.applications.registry import OWN
from quickstudy.backbones.joined import Features
from quickstudy.backbones.text.entities import WordEncoder
from quickstudy.core import Learner, Predictor, Task
from quickstudy.datasets import fewrel
from quickstudy.datasets.dataset import split_dataset
from quickstudy.datasets.entity_tokens import question_tokens, spans_of
from quickstudy.datasets.fewrel import Sentence
from quickstudy.datasets.marked_files import read_questions
from quickstudy.datasets.registry import card
from quickstudy.learners.metric.span_scorer import SpanScorer
from quickstudy.tasks.counts import distinct
from quickstudy.tasks.examples import examples
from quickstudy.tasks.rows import LabelledRows


@dataclass(frozen=True, eq=False)
class QuestionTasks:
    """A source of tasks: one question each, asked of other texts in support and query.

    ``rows``  classes are questions; inputs are ``words`` (n, words, d), the features of a text's
              words, and ``span`` (n, 2), its answer.
    ``shots``, ``queries``  texts of the support set and queries.
    ``longest``  words of an answer at most.

    Raises ValueError where a question has fewer texts than a task needs.
    """

    rows: LabelledRows
    shots: int
    queries: int
    longest: int

    def __post_init__(self) -> None:
        fewest, needed = int(self.rows.counts.min()), self.shots + self.queries
        if fewest < needed:
            name = self.rows.names[int(self.rows.counts.argmin())]
            raise ValueError(
                f"questions: a task has {needed} texts, {self.shots} to learn from and "
                f"{self.queries} queries, but {name!r} has {fewest}. Lower shots or queries, or "
                "add texts."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """The task that this generator state gives."""
        which = int(distinct(len(self.rows), 1, generator))
        inputs = self.rows.rows(which)
        chosen = distinct(int(self.rows.counts[which]), self.shots + self.queries, generator)
        words, targets = inputs["words"][chosen].float(), inputs["span"][chosen]
        support, query = (
            examples(words[part], targets[part])
            for part in (slice(self.shots), slice(self.shots, None))
        )
        return Task(support, query, spans(self.longest))


@final
@dataclass(frozen=True)
class Questions(Application):
    """A task is one question about a head, a few texts with their answers, and further texts.

    The question itself is not read: what is asked, the answers of the support say.

    ``queries``   texts of a task that are to be answered.
    ``split``     of FewRel: "first" or "second", the half of Wikipedia's relations to test on.
    ``rows``      texts of each question at most, the first ones; 0 for all.
    ``longest``   words of an answer at most.
    ``encoder``   a pretrained one, frozen.
    ``steps``     of training.
    ``strict``    empty texts, and those of which the end is cut, are errors.
    """

    queries: int = 10
    split: str = "first"
    rows: int = 200
    longest: int = 10
    encoder: str = ENCODER
    steps: int = 400
    strict: bool = False

    name: ClassVar[str] = "questions"
    learners: ClassVar[tuple[str, ...]] = ("span_scorer",)

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """Features of all words, a scorer of spans, and tasks of unseen questions."""
        train, val, test = self._own(root) if data == OWN else self._fewrel(root)
        given = 5 if shots is None else shots
        size = text_encoder(self.encoder).features + len(MARKS) + 2
        with seeded(seed):
            made = SpanScorer(Features(size), marks=len(MARKS))
        return Prepared(
            made,
            QuestionTasks(train, given, self.queries, self.longest),
            QuestionTasks(val, given, self.queries, self.longest) if val is not None else None,
            QuestionTasks(test, given, self.queries, self.longest),
            f"Which words of a sentence answer a question about its head, given {given} other "
            "sentences with their answers? Questions are relations; those of the test do not occur "
            "in training.",
            steps=self.steps, tasks_per_step=4,
        )  # fmt: skip

    def support(self, path: Path, learner: Learner) -> Support:
        """A table with the columns text, head and answer."""
        sentences = read_questions(path, strict=self.strict).sentences
        words, targets = self._read(sentences, answered=True)
        info = {"texts": len(sentences), "encoder": self.encoder}
        return Support(examples(words, targets), spans(self.longest), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The texts of tables with the columns text and head."""
        read = [read_questions(path, labelled=False, strict=self.strict) for path in paths]
        sentences = [each for one in read for each in one.sentences]
        words, _ = self._read(sentences, answered=False)
        places = [place for one in read for place in one.places]
        return words, [
            f"{place}: {each.text}" for place, each in zip(places, sentences, strict=True)
        ]

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The words that answer, with the places of the first and the last one."""
        with torch.no_grad():
            found = predictor.spec.answer.decode(predictor, inputs).tolist()
        rows = []
        for name, (first, last) in zip(names, found, strict=True):
            place, _, text = name.partition(": ")
            answer = " ".join(text.split(" ")[first : last + 1])
            rows.append({"name": place, "answer": answer, "first": first, "last": last})
        return rows

    def _fewrel(self, root: Path | None) -> tuple[LabelledRows, LabelledRows | None, LabelledRows]:
        if self.split == "pubmed":
            raise ValueError("questions: split must be first or second; found 'pubmed'.")
        parts = fewrel.read_parts(root, split=self.split)
        wiki = {each.relation for each in fewrel.read(root, "wiki")}
        made = {
            name: self._rows([each for each in part if each.relation in wiki])
            for name, part in parts.items()
        }
        return made["train"], None, made["test"]

    def _own(self, root: Path | None) -> tuple[LabelledRows, LabelledRows | None, LabelledRows]:
        if root is None:
            raise ValueError("questions: needs a table of texts. Give it: --root FILE.")
        sentences = read_questions(root, grouped=True, strict=self.strict).sentences
        found = split_dataset(card("texts"), self._rows(sentences))
        return found.train, found.val if len(found.val) else None, found.test

    def _rows(self, sentences: Sequence[Sentence]) -> LabelledRows:
        """Questions as classes, ``rows`` texts of each."""
        kept, seen = [], dict.fromkeys([each.relation for each in sentences], 0)
        for each in sentences:
            seen[each.relation] += 1
            if not self.rows or seen[each.relation] <= self.rows:
                kept.append(each)
        words, targets = self._read(kept, answered=True)
        return LabelledRows.from_labels(
            {"words": words, "span": targets}, [each.relation for each in kept]
        )

    def _read(self, sentences: Sequence[Sentence], *, answered: bool) -> tuple[Tensor, Tensor]:
        """Features (n, words, d) of the words, and the answers (n, 2), -1 where not known."""
        encoder = text_encoder(self.encoder)
        with cutting(self.strict):
            tokens = question_tokens(encoder.tokenizer, sentences)
        targets = torch.full((len(sentences), 2), -1)
        if answered:
            targets = spans_of(sentences, tokens["place"])
        found = encoded(tokens, WordEncoder(encoder).eval())
        words, place = found.split([found.shape[-1] - 2, 2], -1)
        return torch.cat([words, marks_of(sentences, found.shape[1]), place], -1), targets


MARKS: tuple[Callable[[str], bool], ...] = (
    lambda word: word[:1].isupper(),
    lambda word: word[:1].isdigit(),
    lambda word: not word[:1].isalnum(),
)
"""What is seen of a word's form, which an encoder of lower-case words does not know: whether it is
capitalised, a number, or a mark of punctuation."""


def marks_of(sentences: Sequence[Sentence], words: int) -> Tensor:
    """The marks (n, words, 3) of each sentence's first ``words``, 0 beyond its end."""
    found = torch.zeros(len(sentences), words, len(MARKS))
    for row, sentence in enumerate(sentences):
        own = [[float(mark(word)) for mark in MARKS] for word in sentence.words[:words]]
        found[row, : len(own)] = torch.tensor(own)
    return found
