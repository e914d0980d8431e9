"""Texts told apart: which of the user's classes a text is of, or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

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
from quickstudy.core import Examples, Learner, Predictor, TaskSpec
from quickstudy.datasets import clinc150
from quickstudy.datasets.dataset import Dataset, split_dataset
from quickstudy.datasets.registry import card
from quickstudy.datasets.text_files import read_lines, read_texts
from quickstudy.evaluation.calibrate import KEY, Calibration, calibrate_on_support
from quickstudy.evaluation.strangers import stranger_score
from quickstudy.evaluation.support_check import left_out_predictions
from quickstudy.tasks.examples import examples
from quickstudy.tasks.rows import LabelledRows

TRAINING = (40, 3)
"""Classes of a training task, where there are so many, and queries of each: more classes than in
tests, as for Prototypical."""


@final
@dataclass(frozen=True)
class Text(Application):
    """A task is some classes of texts, of which a few examples are given.

    ``ways``, ``queries``  classes of a task, and queries of each.
    ``split``     of CLINC150: "intents", or "domains", whose test tasks are of unseen domains.
    ``rows``      texts of each class at most, the first ones; 0 for all. Encoding takes most time.
    ``encoder``   a pretrained one, frozen.
    ``steps``     of training a head on its features, for a learner that trains.
    ``false_alarms``  share of texts of known classes that ``predict`` may call a stranger.
    ``strict``    empty texts, and texts of which the end is cut, are errors.
    """

    ways: int = 5
    queries: int = 15
    split: str = "intents"
    rows: int = 0
    encoder: str = ENCODER
    steps: int = 300
    false_alarms: float = 0.05
    strict: bool = False

    name: ClassVar[str] = "text"
    learners: ClassVar[tuple[str, ...]] = (
        "prototypical", "simple_shot", "linear_probe", "matching", "r2d2",
    )  # fmt: skip

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """Features of all texts, a learner on them, and tasks of classes that are split."""
        encoder = text_encoder(self.encoder)
        rows = self._own(root) if data == OWN else self._clinc(root)
        trained = is_trained(learner)
        needed = ("train", "val", "test") if trained else ("test",)
        split = {
            name: self._featurised(rows.splits[name]) for name in needed if len(rows.splits[name])
        }
        with seeded(seed):
            made = on_features(learner, split.get("train"), encoder.features)
        given = 1 if shots is None else shots
        tasks = class_tasks(split, self.ways, given, self.queries, TRAINING if trained else None)
        ways = min(self.ways, len(split["test"]))
        new = "classes" if rows.new_classes else "texts of the same classes"
        baselines: dict[str, Learner] = {}
        if trained:
            baselines = {BASELINE: on_features("simple_shot", None, encoder.features)}
        return Prepared(
            made, *tasks,
            f"Which of {ways} classes is a text of, given {given} of each? Test tasks have {new} "
            f"that training has not seen; the encoder, {self.encoder}, was trained on other texts.",
            steps=self.steps if trained else 0, names=tasks.test.names, baselines=baselines,
        )  # fmt: skip

    def support(self, path: Path, learner: Learner) -> Support:
        """A table with the columns text and label, or a folder with a file of texts a class."""
        found = read_texts(path, strict=self.strict)
        names = sorted(set(found.labels))
        if len(names) < 2:
            raise ValueError(
                f"{path}: has texts of one class alone, {names[0]!r}. Add texts of something else, "
                "to tell it from."
            )
        ids = torch.tensor([names.index(label) for label in found.labels])
        rows, spec = examples(self._encoded(found.texts), ids), classification(len(names))
        info = {"names": names, "texts": len(found.texts), "encoder": self.encoder}
        return Support(rows, spec, info | _calibrated(learner, rows, spec))

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """Features of the texts in files: each line, or each row of a table's column ``text``."""
        texts, places = read_lines(paths, strict=self.strict)
        return self._encoded(texts), places

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The class of each text, its probability, and whether it may be of no known class."""
        classes = names_of(predictor)
        with torch.no_grad():
            best = predictor(inputs).softmax(-1).max(-1)
        strange = self._strange(predictor, inputs)
        return [
            {
                "name": name, "class": classes[best.indices[i]],
                "probability": round(float(best.values[i]), 6),
                "stranger": None if strange is None else bool(strange[i]),
            }
            for i, name in enumerate(names)
        ]  # fmt: skip

    def _strange(self, predictor: Predictor, inputs: Tensor) -> Tensor | None:
        """(n,): which texts are stranger than ``false_alarms`` of known ones; None if unknown."""
        kept = predictor.info.get(KEY)
        if kept is None:
            return None
        try:
            line = Calibration.from_json(kept).stranger_bound(self.false_alarms)
            return stranger_score(predictor, inputs).double() > line
        except ValueError:  # too few texts for this share, or a learner without such scores
            return None

    def _clinc(self, root: Path | None) -> Dataset:
        refuse_other_tokens(text_encoder(self.encoder), "clinc150")
        return clinc150.load(root, split=self.split)

    def _own(self, root: Path | None) -> Dataset:
        if root is None:
            raise ValueError("text: needs a file or folder of texts. Give it: --root FILE.")
        found = read_texts(root, strict=self.strict)
        with cutting(self.strict):
            tokens = text_encoder(self.encoder).tokenize(found.texts)
        classes = LabelledRows.from_labels(tokens, found.labels)
        return split_dataset(card("texts"), classes, ways=self.ways)

    def _featurised(self, rows: LabelledRows) -> LabelledRows:
        kept = first_rows(rows, self.rows)
        features = encoded(kept.inputs, text_encoder(self.encoder))
        return LabelledRows(features, kept.counts, kept.names, kept.superclasses)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        encoder = text_encoder(self.encoder)
        with cutting(self.strict):
            tokens = encoder.tokenize(texts)
        return encoded(tokens, encoder)


def _calibrated(learner: Learner, rows: Examples, spec: TaskSpec) -> dict[str, Any]:
    """How strange each text is to a predictor that was adapted without it; {} where none can be."""
    left_out = tuple(left_out_predictions(learner, rows, spec))
    if not left_out:
        return {}
    return {KEY: calibrate_on_support(learner, rows, spec, left_out).to_json()}
