"""Translation into a language of which there are a few hundred sentence pairs."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast, final

import torch

from quickstudy.answers.tokens import Tokens, written
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.languages import Row, row_of, rows_as_examples, spec_of, too_long
from quickstudy.applications.translation_baselines import (
    NearestLanguage,
    RewrittenNearest,
    TranslationMemory,
    english,
)
from quickstudy.applications.translation_data import PROTOCOLS, TranslationData
from quickstudy.backbones.text.seq2seq import Seq2Seq
from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.core import Learner, Predictor
from quickstudy.datasets.sentence_pairs import Pair, read_pairs, read_sources
from quickstudy.datasets.subwords import LONGEST, PLACEHOLDER, SPECIAL, Subwords
from quickstudy.learners.gradient.descend import Adam
from quickstudy.learners.gradient.maml import MAML
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.learners.transfer.early_stopping import EarlyStopping
from quickstudy.objectives import mean_loss, predict_rows
from quickstudy.tasks.fixed import fixed

SHOTS = 200
"""Pairs of a language by default, or as many as there are."""


@final
@dataclass(frozen=True)
class Translation(Application):
    """A task is one target language, of which ``shots`` pairs are given, 200 by default.

    ``protocol``   what the source is and what training has seen: "unseen", "seen" or "nearest",
                   see :data:`PROTOCOLS`.
    ``held_out``   codes of the languages to test on, with commas; of your own, the last fifth in
                   the order of their names by default.
    ``languages``  codes of those to train on; all others of your own by default.
    ``messages``   how many messages, at most a third of all, are kept for the test.
    ``subwords``   number of tokens.
    ``size``, ``layers``   of the transformer.
    ``steps``      of training over languages.
    ``tuning``     steps on the pairs of a language, at most.
    """

    protocol: str = "seen"
    held_out: str = ""
    languages: str = ""
    messages: int = 150
    subwords: int = 3000
    size: int = 128
    layers: int = 2
    steps: int = 1500
    tuning: int = 200

    name: ClassVar[str] = "translation"
    learners: ClassVar[tuple[str, ...]] = ("early_stopping", "maml")

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"translation: protocol must be one of {', '.join(PROTOCOLS)}; found "
                f"{shown(self.protocol)}."
            )
        if self.messages < 1:
            raise ValueError(
                f"translation: messages must be at least 1, to test on; found {self.messages}."
            )

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """Rows of the training languages, a network to train on them, tasks of the others."""
        found = TranslationData.of(self, data, root, SHOTS if shots is None else shots, seed)
        made = self.learner(learner, found.subwords, seed)
        text = found.subwords.text
        baselines: dict[str, Learner] = {
            "from the support alone": self.learner("early_stopping", found.subwords, seed),
            "translation memory": TranslationMemory(text),
        }
        if self.protocol == "nearest":
            baselines["nearest language copied"] = NearestLanguage(text)
            baselines["nearest language rewritten by rules"] = RewrittenNearest(text)
        # An interval needs two tasks: of one language, two draws of the pairs.
        draws = 2 if len(found.held_out) == 1 else 1
        tests = [found.task(name, seed + k) for k in range(draws) for name in found.held_out]
        fewest = min(len(task.support.weights) for task in tests)
        if shots is not None and fewest < shots:
            raise ValueError(
                f"shots: a language of the test has {fewest} pairs beside the messages that are "
                f"asked; found {shots}. Lower shots, or messages, or give more sentences."
            )
        return Prepared(
            made,
            found.training(16, 16),
            None,
            fixed(tests),
            f"Translate messages into a language of which {fewest} pairs are given. Test "
            f"tasks have languages that training has not seen ({', '.join(found.held_out)}); "
            f"{PROTOCOLS[self.protocol]}.",
            steps=self.steps,
            tasks_per_step=2,
            rate=2e-3,
            names=lambda _: found.subwords.pieces.split(" "),
            baselines=baselines,
            test_tasks=len(tests),
            clip=1.0,
        )

    def learner(self, name: str, subwords: Subwords, seed: int) -> Learner:
        """The learner of this name, untrained; the same weights for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Seq2Seq(subwords.size, self.size, self.layers, subwords=subwords.text)
        if name == "maml":
            steps = max(1, self.tuning // 8)  # each on all pairs, and not on a batch of them
            return MAML(network, 3, 1e-3, FirstOrder(), update=Adam(), clip=1.0, test_steps=steps)
        if name == "early_stopping":
            return EarlyStopping(network, self.tuning, 1e-3)
        raise ValueError(
            f"translation: learner must be one of {', '.join(self.learners)}; found {shown(name)}."
        )

    def support(self, path: Path, learner: Learner) -> Support:
        """A table with the columns source and target and, where that is the protocol, nearest."""
        pairs = read_pairs(path, self.protocol == "nearest")
        subwords = subwords_of(learner)
        names = [name for name in subwords.names if name not in SPECIAL]
        chosen = _likeliest_tag(learner, subwords, pairs, names)
        rows = _rows(subwords, subwords.names[chosen], pairs)
        info = {"tag": chosen, "pairs": len(pairs), "nearest": self.protocol == "nearest"}
        return Support(rows_as_examples(rows), spec_of(subwords), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The sentences in files: each line, or each row of a table's column ``source``."""
        pairs = read_sources(paths, bool(predictor.info.get("nearest")))
        subwords = subwords_of(predictor.learner)
        rows = _rows(subwords, _tag_of(predictor, subwords), pairs)
        longest = min(LONGEST, 2 * max(len(row.source) for row in rows) + 8)
        return rows_as_examples(rows, longest=longest).inputs, [pair.place for pair in pairs]

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The source and its translation, row by row.

        A warning counts translations that lack a placeholder of their source.
        """
        answer = predictor.spec.answer
        assert isinstance(answer, Tokens)
        with torch.no_grad():
            decoded = answer.decode(predictor, inputs)
        rows = [
            {
                "name": name,
                "source": written(english(source), answer.pieces),
                "translation": written(row, answer.pieces),
            }
            for name, source, row in zip(
                names, inputs["source"].tolist(), decoded.tolist(), strict=True
            )
        ]
        _warn_of_lost(rows)
        return rows


def subwords_of(learner: Learner) -> Subwords:
    """The subwords that a learner's network was trained with."""
    network = getattr(learner, "backbone", None)
    if not isinstance(network, Seq2Seq) or not network.subwords:
        raise ValueError(
            "translation: needs a learner with a Seq2Seq network that has its subwords; found "
            f"{type(learner).__name__}. Train one by quickstudy run --data messages."
        )
    return Subwords(network.subwords)


def _warn_of_lost(rows: Sequence[dict[str, Any]]) -> None:
    """UserWarning where a placeholder of a source is not in its translation."""
    lost = []
    for row in rows:
        source, target = (
            Counter(re.findall(PLACEHOLDER, row[part])) for part in ("source", "translation")
        )
        if missing := source - target:
            lost.append(f"{row['name']}: {next(iter(missing))}")
    if lost:
        warnings.warn(
            f"translation: {count(len(lost), 'text')} of {len(rows):,} lack a placeholder of the "
            f"source: {first_few(lost, 3)}. Correct them before use.",
            stacklevel=3,
        )


def _tag_of(predictor: Predictor, subwords: Subwords) -> int:
    tag = predictor.info.get("tag")
    if tag not in subwords.names or tag in SPECIAL:
        raise ValueError(
            f"predict: the predictor's file must name the tag of a language that its subwords "
            f"have; found {shown(tag)}. Adapt again."
        )
    return subwords.names[str(tag)]


def _rows(subwords: Subwords, tag_id: int, pairs: Sequence[Pair]) -> list[Row]:
    rows = [row_of(subwords, tag_id, p.source, p.nearest, p.target) for p in pairs]
    too_long(rows, [pair.place for pair in pairs])
    return rows


@torch.no_grad()
def _likeliest_tag(
    learner: Learner, subwords: Subwords, pairs: Sequence[Pair], names: Sequence[str]
) -> str:
    """The training language under whose tag the unadapted network predicts the pairs best."""
    spec = spec_of(subwords)
    predictor = Predictor(learner, cast(Any, learner).prior(spec), spec)
    shortest = sorted(pairs, key=lambda pair: len(pair.target))[: max(16, len(pairs) // 2)][:64]
    losses = {}
    for name in names:
        rows = rows_as_examples(_rows(subwords, subwords.names[name], shortest))
        losses[name] = float(mean_loss(predict_rows(predictor, rows), rows, spec.answer))
    return min(losses, key=lambda name: losses[name])
