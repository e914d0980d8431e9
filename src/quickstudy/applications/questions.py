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
              words, ``span`` (n, 2), its answer, and ``number`` (n,), the text's.
    ``texts``  all texts, by number.
    ``shots``, ``queries``  texts of the support set and queries.
    ``longest``  words of an answer at most.

    Raises ValueError where a question has fewer texts than a task needs.
    """

    rows: LabelledRows
    texts: Sequence[str]
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
        which, chosen = self._draw(generator)
        inputs = self.rows.rows(which)
        words, targets = inputs["words"][chosen].float(), inputs["span"][chosen]
        support, query = (
            examples(words[part], targets[part])
            for part in (slice(self.shots), slice(self.shots, None))
        )
        return Task(support, query, spans(self.longest))

    def names(self, generator: torch.Generator) -> list[str]:
        """The texts of that task's queries, with a space between words."""
        which, chosen = self._draw(generator)
        numbers = self.rows.rows(which)["number"][chosen[self.shots :]]
        return [self.texts[number] for number in numbers.tolist()]

    def _draw(self, generator: torch.Generator) -> tuple[int, Tensor]:
        """The question, and which of its texts, those of the support first."""
        which = int(distinct(len(self.rows), 1, generator))
        needed = self.shots + self.queries
        return which, distinct(int(self.rows.counts[which]), needed, generator)


Rows = tuple[LabelledRows, list[str]]
Splits = tuple[Rows, Rows | None, Rows, str]
"""To train, validate and test on, and what is new in the test."""


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
    steps: int = 150
    strict: bool = False

    name: ClassVar[str] = "questions"
    learners: ClassVar[tuple[str, ...]] = ("span_scorer",)

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """Features of all words, a scorer of spans, and tasks of unseen questions."""
        train, val, test, new = self._own(root) if data == OWN else self._fewrel(root)
        given = 5 if shots is None else shots
        size = text_encoder(self.encoder).features + len(MARKS) + 2
        with seeded(seed):
            made = SpanScorer(Features(size), marks=len(MARKS))
        tasks = [
            None if rows is None else QuestionTasks(*rows, given, self.queries, self.longest)
            for rows in (train, val, test)
        ]
        assert tasks[2] is not None
        return Prepared(
            made, tasks[0], tasks[1], tasks[2],
            f"Which words of a sentence answer a question about its head, given {given} other "
            f"sentences with their answers? Test tasks have {new} that training has not seen.",
            steps=self.steps, tasks_per_step=4, names=tasks[2].names,
        )  # fmt: skip

    def support(self, path: Path, learner: Learner) -> Support:
        """A table with the columns text, head and answer."""
        sentences, places = read_questions(path, strict=self.strict)
        words, targets = self._read(sentences, places, answered=True)
        info = {"texts": len(sentences), "encoder": self.encoder}
        return Support(examples(words, targets), spans(self.longest), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The texts of tables with the columns text and head."""
        read = [read_questions(path, labelled=False, strict=self.strict) for path in paths]
        sentences = [each for one in read for each in one.sentences]
        places = [place for one in read for place in one.places]
        words, _ = self._read(sentences, places, answered=False)
        return words, [
            f"{place}\n{each.text}" for place, each in zip(places, sentences, strict=True)
        ]

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The words that answer, with the places of the first and the last one."""
        with torch.no_grad():
            found = predictor.spec.answer.decode(predictor, inputs).tolist()
        rows = []
        for name, (first, last) in zip(names, found, strict=True):
            place, _, text = name.rpartition("\n")  # which no text has, but a path may
            answer = " ".join(text.split(" ")[first : last + 1])
            rows.append({"name": place, "answer": answer, "first": first, "last": last})
        return rows

    def _fewrel(self, root: Path | None) -> Splits:
        if self.split == "pubmed":
            raise ValueError("questions: split must be first or second; found 'pubmed'.")
        parts = fewrel.read_parts(root, split=self.split)
        wiki = {each.relation for each in fewrel.read(root, "wiki")}
        train, test = (
            self._rows([each for each in parts[name] if each.relation in wiki], (), name == "train")
            for name in ("train", "test")
        )
        return train, None, test, "questions"

    def _own(self, root: Path | None) -> Splits:
        if root is None:
            raise ValueError("questions: needs a table of texts. Give it: --root FILE.")
        sentences, places = read_questions(root, grouped=True, strict=self.strict)
        rows, texts = self._rows(sentences, places, both_ways=False)
        found = split_dataset(card("texts"), rows)
        val = (found.val, texts) if len(found.val) else None
        new = "questions" if found.new_classes else "texts of the same questions"
        return (found.train, texts), val, (found.test, texts), new

    def _rows(
        self, sentences: Sequence[Sentence], places: Sequence[str], both_ways: bool
    ) -> tuple[LabelledRows, list[str]]:
        """Questions as classes, ``rows`` texts of each, and the texts by number.

        ``places``     where the sentences stand, for errors; () for their numbers.
        ``both_ways``  also ask of each answer what it is the answer for: the tail asks, the head
                       answers. A sentence then has two questions, and what is asked must be read
                       from the support.
        """
        seen = dict.fromkeys([each.relation for each in sentences], 0)
        chosen = []
        for row, each in enumerate(sentences):
            seen[each.relation] += 1
            if not self.rows or seen[each.relation] <= self.rows:
                chosen.append(row)
        kept = [sentences[row] for row in chosen]
        places = [places[row] for row in chosen] if places else ()
        asked = [kept]
        if both_ways:
            asked.append([
                Sentence(each.words, each.tail, each.head, f"{each.relation}, asked of the tail")
                for each in kept
            ])  # fmt: skip
        read = [self._read(each, places, answered=True) for each in asked]
        words, spans_read = (torch.cat(parts) for parts in zip(*read, strict=True))
        every = [each for part in asked for each in part]
        numbers = torch.arange(len(every))
        rows = LabelledRows.from_labels(
            {"words": words, "span": spans_read, "number": numbers},
            [each.relation for each in every],
        )
        return rows, [each.text for each in every]

    def _read(
        self, sentences: Sequence[Sentence], places: Sequence[str], *, answered: bool
    ) -> tuple[Tensor, Tensor]:
        """Features (n, words, d) of the words, and the answers (n, 2), -1 where not known."""
        encoder = text_encoder(self.encoder)
        with cutting(self.strict):
            tokens = question_tokens(encoder.tokenizer, sentences, where=places)
        targets = torch.full((len(sentences), 2), -1)
        if answered:
            targets = spans_of(sentences, tokens["place"], where=places)
            self._refuse_longer(targets, places)
        head = tokens["head"]
        # Encoded without the head, so that a sentence is encoded once, whatever is asked of it.
        found = encoded({**tokens, "head": torch.zeros_like(head)}, WordEncoder(encoder).eval())
        words, exists, _ = found.split([found.shape[-1] - 2, 1, 1], -1)
        marks = marks_of(sentences, found.shape[1])
        return torch.cat([words, marks, exists, head.unsqueeze(-1).to(words.dtype)], -1), targets

    def _refuse_longer(self, targets: Tensor, places: Sequence[str]) -> None:
        """ValueError for an answer in a user's file that no prediction could be."""
        words = targets[:, 1] - targets[:, 0] + 1
        if places and int(words.max()) > self.longest:
            raise ValueError(
                f"{places[int(words.argmax())]}, answer: may have {self.longest} words at most, as "
                f"those that are predicted; found {int(words.max())}. Mark fewer, or start a run "
                f"with --set longest={int(words.max())}."
            )


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
