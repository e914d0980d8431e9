"""Generation: new drawings from a few of a kind, and the rest of a drawing from some pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from quickstudy import datasets
from quickstudy.answers.specs import regression
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.drawing_baselines import MeanDrawing, NearestPixel
from quickstudy.applications.drawing_files import (
    read_drawings,
    read_partial,
    with_bright_ink,
    write_drawing,
)
from quickstudy.applications.drawing_tasks import Completions, NewDrawings, places
from quickstudy.applications.registry import OWN
from quickstudy.backbones.joined import Features
from quickstudy.backbones.mlp import MLP
from quickstudy.base.door import to_unit
from quickstudy.core import Learner, Predictor, TaskSource
from quickstudy.datasets.dataset import Dataset, split_dataset
from quickstudy.datasets.folders import read_classes
from quickstudy.datasets.registry import card
from quickstudy.learners.memory.convolutional_process import ConvolutionalConditionalNeuralProcess
from quickstudy.learners.memory.neural_process import (
    AttentiveConditionalNeuralProcess,
    ConditionalNeuralProcess,
)
from quickstudy.learners.memory.neural_statistician import NeuralStatistician
from quickstudy.tasks.examples import examples

CONTEXT, LATENT = 64, 16
"""Sizes of the two latent variables of the neural statistician."""
SHOTS, QUERIES = 5, 10
MOST_DRAWN = 1000
"""New drawings at once, and the greatest side of a completed picture."""


class Parts(NamedTuple):
    """Of the drawings of a run: those to train on, to choose weights by, and to test on."""

    train: TaskSource
    validation: TaskSource | None
    test: TaskSource


@dataclass(frozen=True)
class Generation(Application):
    """Drawings: five of a character give new ones, or some pixels of one give the others.

    What is asked depends on the learner. The neural statistician makes new drawings; a neural
    process completes one.

    ``size``    side in pixels to which drawings are reduced.
    ``given``   pixels that a neural process is given, of ``size`` squared.
    ``strict``  whether a file that is no readable picture raises an error.

    Raises ValueError for sizes that cannot be.
    """

    size: int = 14
    given: int = 40
    strict: bool = False

    name: ClassVar[str] = "generation"
    reads_files: ClassVar[bool] = False
    learners: ClassVar[tuple[str, ...]] = (
        "neural_statistician",
        "convolutional_conditional_neural_process",
        "attentive_conditional_neural_process",
        "conditional_neural_process",
    )

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 64:
            raise ValueError(f"generation: size must be 8 to 64 pixels; found {self.size}.")

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The parts of a run on Omniglot, or on folders of the user's own drawings."""
        drawings = self._load(data, root)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._learner(learner)
        if isinstance(made, NeuralStatistician):
            return self._new_drawings(made, drawings, SHOTS if shots is None else shots)
        if shots is not None:
            raise ValueError(
                "generation: shots are drawings that are given, for new ones; a neural process is "
                "given pixels. Say how many by --set given=NUMBER."
            )
        return self._completions(made, drawings)

    def support(self, path: Path, learner: Learner) -> Support:
        """A folder of drawings for new ones; one picture with transparent parts to complete it."""
        if isinstance(learner, NeuralStatistician):
            ink = to_unit(read_drawings(path, self.size, strict=self.strict)).flatten(1)
            noise = torch.zeros(len(ink), CONTEXT + LATENT)
            return Support(examples(noise, ink), regression(ink.shape[1]), {"asks": "drawings"})
        picture, known = read_partial(path, self.size)
        where = places(self.size)[known.flatten()]
        given = examples(where, picture[known].unsqueeze(-1))
        return Support(given, regression(1), {"asks": "completion"})

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """A number in place of paths: of new drawings, or the side in pixels of the completion."""
        asks = predictor.info.get("asks")
        number = _number(paths, asks)
        if asks == "drawings":
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(number, CONTEXT + LATENT, generator=generator)
            return noise, [f"drawing {i + 1}" for i in range(number)]
        names = [f"row {i + 1}, column {j + 1}" for i in range(number) for j in range(number)]
        return places(number), names

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The ink of each drawing, or each pixel; pictures are written to ``out``."""
        with torch.no_grad():
            ink = predictor(inputs).clamp(0, 1)
        if predictor.info.get("asks") == "drawings":
            pictures = ink.reshape(len(ink), self.size, -1)
            files = [f"drawing_{i + 1:03d}.png" for i in range(len(pictures))]
        else:
            side = round(len(ink) ** 0.5)
            pictures, files = ink.reshape(1, side, side), ["completed.png"] * len(ink)
        if out is not None:
            for picture, file in zip(pictures, dict.fromkeys(files), strict=True):
                write_drawing(picture, out / file)
        return [
            {"name": name, "ink": round(float(row.mean()), 4)}
            | ({} if out is None else {"file": str(out / file)})
            for name, row, file in zip(names, ink, files, strict=True)
        ]

    def _load(self, data: str, root: Path | None) -> Dataset:
        if data != OWN:
            return datasets.load("omniglot", root, split="lake", size=self.size)
        if root is None:
            raise ValueError(
                "generation: needs the folder of your drawings, with one folder for each thing. "
                "Give it as --root FOLDER."
            )
        classes = read_classes(root, self.size, 1, resize="area", strict=self.strict)
        return split_dataset(card("folder"), with_bright_ink(classes))

    def _learner(self, name: str) -> Learner:
        if name == "neural_statistician":
            return NeuralStatistician(Features(CONTEXT + LATENT), self.size**2, LATENT)
        if name == "convolutional_conditional_neural_process":
            return ConvolutionalConditionalNeuralProcess(Features(2), self.size)
        of_places = MLP(2, (128, 128))
        if name == "attentive_conditional_neural_process":
            return AttentiveConditionalNeuralProcess(of_places)
        return ConditionalNeuralProcess(of_places)

    def _new_drawings(self, learner: Learner, drawings: Dataset, shots: int) -> Prepared:
        train = NewDrawings(drawings.train, shots, 1, CONTEXT + LATENT, turned=True)
        others = [
            NewDrawings(rows, shots, min(QUERIES, int(rows.counts.min()) - shots), train.noise)
            for rows in (drawings.val, drawings.test)
            if len(rows)
        ]
        return Prepared(
            learner, train, others[0] if len(others) > 1 else None, others[-1],
            about=f"{shots} drawings of a character give new ones. The score is the squared error "
            "of the typical drawing, for noise of 0, against other drawings of that character. The "
            "test has characters that training has not seen.",
            steps=4000, tasks_per_step=16,
        )  # fmt: skip

    def _completions(self, learner: Learner, drawings: Dataset) -> Prepared:
        train = Completions(drawings.train, self.given, turned=True)
        others = [
            Completions(rows, self.given) for rows in (drawings.val, drawings.test) if len(rows)
        ]
        mean = to_unit(drawings.train.inputs).mean((0, 1))
        return Prepared(
            learner, train, others[0] if len(others) > 1 else None, others[-1],
            about=f"{self.given} of the {self.size**2} pixels of a drawing are given, and the "
            "others are asked for. The test has characters that training has not seen.",
            steps=1500, tasks_per_step=16,
            baselines={"nearest given pixel": NearestPixel(), "mean drawing": MeanDrawing(mean)},
        )  # fmt: skip


def _number(paths: Sequence[Path], asks: Any) -> int:
    """The whole number that is given in place of files."""
    text = [str(path) for path in paths]
    what = "of new drawings" if asks == "drawings" else "of pixels along a side"
    if len(text) != 1 or not text[0].isdecimal() or not 1 <= int(text[0]) <= MOST_DRAWN:
        raise ValueError(
            f"predict: this predictor takes the number {what}, 1 to {MOST_DRAWN}, in place of "
            f"files; found {', '.join(text)[:100]}. For example: predict PREDICTOR 16 --out FOLDER."
        )
    return int(text[0])


def drawings_of(predictor: Predictor, number: int, generator: torch.Generator) -> Tensor:
    """(number, pixels): new drawings of a predictor that a neural statistician made."""
    noise = torch.randn(number, CONTEXT + LATENT, generator=generator)
    with torch.no_grad():
        made: Tensor = predictor(noise)
    return made
