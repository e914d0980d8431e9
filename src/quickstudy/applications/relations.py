"""Relations: which of the user's relations a sentence says of two of its entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from quickstudy.answers.specs import classification
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.encoding import (
    BASELINE,
    ENCODER,
    class_tasks,
    cutting,
    encoded,
    first_rows,
    is_trained,
    names_of,
    on_features,
    refuse_other_tokens,
    seeded,
    text_encoder,
)
from quickstudy.applications.registry import OWN
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.text.encoder import TextEncoder
from quickstudy.backbones.text.entities import EntityEncoder
from quickstudy.backbones.text.position_cnn import PositionCNN
from quickstudy.base.names import unknown_name
from quickstudy.core import Learner, Predictor
from quickstudy.datasets import fewrel
from quickstudy.datasets.dataset import Dataset, split_dataset
from quickstudy.datasets.entity_tokens import entity_tokens
from quickstudy.datasets.fewrel import Sentence
from quickstudy.datasets.marked_files import read_relations
from quickstudy.datasets.registry import card
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.tasks.examples import examples
from quickstudy.tasks.rows import LabelledRows

NETWORKS = ("frozen", "tuned", "cnn")
TRAIN = {"frozen": (10, 4), "tuned": (8, 2), "cnn": (10, 4)}
"""Ways and queries of training tasks."""
STEPS = {"frozen": 60, "tuned": 150, "cnn": 400}
TUNED_SCALE = 4.0
"""Of distances between features of four parts of length 1 each."""


@final
@dataclass(frozen=True)
class Relations(Application):
    """A task is some relations, of which a few sentences with marked entities are given.

    ``ways``, ``queries``  relations of a task, and queries of each.
    ``split``     of FewRel: "first" or "second", the half of Wikipedia's relations to test on, or
                  "pubmed".
    ``network``   "frozen": the features of sentence, head and tail by the frozen ``encoder``, and a
                  linear change trained on them; "tuned": its last ``layers`` are trained too, which
                  takes minutes; "cnn": a convolutional network with position features that is
                  trained from the encoder's embeddings of words.
    ``layers``    of the encoder that are trained with "tuned".
    ``rows``      sentences of each relation at most, the first ones; 0 for all.
    ``encoder``   a pretrained one.
    ``steps``     of training, for a learner that trains; 0 for what suits the network.
    ``strict``    empty sentences, and those of which the end is cut, are errors.
    """

    ways: int = 5
    queries: int = 10
    split: str = "first"
    network: str = "frozen"
    layers: int = 2
    rows: int = 200
    encoder: str = ENCODER
    steps: int = 0
    strict: bool = False

    name: ClassVar[str] = "relations"
    learners: ClassVar[tuple[str, ...]] = (
        "prototypical", "matching", "r2d2", "simple_shot", "linear_probe",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise unknown_name("relations: network", self.network, dict.fromkeys(NETWORKS))

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The sentences as the network reads them, a learner, and tasks of unseen relations."""
        rows = self._own(root) if data == OWN else self._fewrel(root)
        trained = self.network != "frozen" or is_trained(learner)
        needed = ("train", "val", "test") if trained else ("test",)
        split = {name: self._read(rows.splits[name]) for name in needed if len(rows.splits[name])}
        with seeded(seed):
            made = self._learner(learner, split.get("train"))
        given = 1 if shots is None else shots
        training = TRAIN[self.network] if trained else None
        tasks = class_tasks(split, self.ways, given, self.queries, training)
        ways = min(self.ways, len(split["test"]))
        new = "relations" if rows.new_classes else "sentences of the same relations"
        tuned = self.network == "tuned"
        baselines: dict[str, Learner] = {}
        if trained and self.network == "frozen":
            baselines = {BASELINE: on_features("simple_shot", None, self._size)}
        return Prepared(
            made, *tasks,
            f"Which of {ways} relations does a sentence say of its head and tail, given {given} "
            f"sentence{'s' if given > 1 else ''} of each? Test tasks have {new} that training has "
            "not seen.",
            steps=(self.steps or STEPS[self.network]) if trained else 0,
            tasks_per_step=1 if tuned else 2, rate=1e-4 if tuned else 1e-3,
            clip=1.0 if tuned else None, names=tasks.test.names, baselines=baselines,
        )  # fmt: skip

    def support(self, path: Path, learner: Learner) -> Support:
        """A table with the columns text, head, tail and relation."""
        sentences, places = read_relations(path, strict=self.strict)
        names = sorted({each.relation for each in sentences})
        if len(names) < 2:
            raise ValueError(
                f"{path}: has sentences of one relation alone, {names[0]!r}. Add another, to tell "
                "it from."
            )
        ids = torch.tensor([names.index(each.relation) for each in sentences])
        info = {"names": names, "sentences": len(sentences), "encoder": self.encoder}
        rows = examples(self._inputs(sentences, places), ids)
        return Support(rows, classification(len(names)), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The sentences of tables with the columns text, head and tail."""
        read = [read_relations(path, labelled=False, strict=self.strict) for path in paths]
        sentences = [each for one in read for each in one.sentences]
        places = [place for one in read for place in one.places]
        return self._inputs(sentences, places), places

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The relation that each sentence says, and its probability."""
        relations = names_of(predictor)
        with torch.no_grad():
            best = predictor(inputs).softmax(-1).max(-1)
        pairs = zip(names, best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            {"name": name, "relation": relations[k], "probability": round(p, 6)}
            for name, k, p in pairs
        ]

    @property
    def _size(self) -> int:
        return 4 * text_encoder(self.encoder).features

    def _learner(self, name: str, base: LabelledRows | None) -> Learner:
        if self.network == "frozen":
            return on_features(name, base, self._size)
        if self.network == "tuned":
            scale = {"scale": TUNED_SCALE} if name == "prototypical" else {}
            tuned: Learner = resolve("learner", name, LEARNERS)(self._tuned(), **scale)
            return tuned
        model: Any = text_encoder(self.encoder).model  # of the package transformers
        embeddings = model.get_input_embeddings()
        cnn = PositionCNN(len(embeddings.weight)).start_from(embeddings.weight)
        learner: Learner = resolve("learner", name, LEARNERS)(cnn)
        return learner

    def _tuned(self) -> EntityEncoder:
        """An encoder of its own, of which the last layers are trained."""
        encoder = pretrained(self.encoder, frozen=False)
        assert isinstance(encoder, TextEncoder)
        found = [
            part
            for part in encoder.model.modules()
            if isinstance(part, nn.ModuleList) and len(part)
        ]
        layers = max(found, key=len, default=nn.ModuleList())
        if not 1 <= self.layers <= len(layers):
            raise ValueError(
                f"relations: layers must be 1 to {len(layers)}, those of {self.encoder}; found "
                f"{self.layers}."
            )
        encoder.requires_grad_(False)
        for layer in layers[-self.layers :]:
            layer.requires_grad_(True)
        return EntityEncoder(encoder)

    def _fewrel(self, root: Path | None) -> Dataset:
        refuse_other_tokens(text_encoder(self.encoder), "fewrel")
        return fewrel.load(root, split=self.split)

    def _own(self, root: Path | None) -> Dataset:
        if root is None:
            raise ValueError("relations: needs a table of sentences. Give it: --root FILE.")
        sentences, places = read_relations(root, strict=self.strict)
        tokens = self._tokens(sentences, places)
        classes = LabelledRows.from_labels(tokens, [each.relation for each in sentences])
        return split_dataset(card("texts"), classes, ways=self.ways)

    def _inputs(self, sentences: Sequence[Sentence], places: Sequence[str]) -> Any:
        return self._features(self._tokens(sentences, places))

    def _tokens(self, sentences: Sequence[Sentence], places: Sequence[str]) -> dict[str, Tensor]:
        with cutting(self.strict):
            return entity_tokens(text_encoder(self.encoder).tokenizer, sentences, places)

    def _read(self, rows: LabelledRows) -> LabelledRows:
        kept = first_rows(rows, self.rows)
        inputs = self._features(kept.inputs)
        return LabelledRows(inputs, kept.counts, kept.names, kept.superclasses)

    def _features(self, tokens: Any) -> Any:
        """The tokens as the network reads them."""
        if self.network != "frozen":
            return tokens
        return encoded(tokens, EntityEncoder(text_encoder(self.encoder)).eval())
