"""A small application for tests: curves from a few of their points."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.applications import registry
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.registry import Card, DataCard
from quickstudy.core import Examples, Learner, Predictor, Task

CARD = Card(
    name="toy_application", class_name="Curves", title="Curves",
    brings="A CSV file with the columns x and y.", gives="y at other x.", answer="reals",
    own="a folder with one CSV file for each curve",
    data={"waves": DataCard("waves", "Where does an unseen sinusoid go?", "waves")},
)  # fmt: skip


@final
@dataclass(frozen=True)
class Curves(Application):
    """Curves are sinusoids, or those in the user's files, of which every second is tested.

    ``queries``  points of a curve to predict.
    ``widths``   of the hidden layers.
    ``strict``   raise an error for a line that cannot be read.
    """

    queries: int = 6
    widths: tuple[int, ...] = (8,)
    strict: bool = False

    name: ClassVar[str] = "toy_application"
    learners: ClassVar[tuple[str, ...]] = ("conditional_neural_process", "linear_probe")

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        network = qs.backbones.MLP(1, hidden=self.widths)
        shots = 4 if shots is None else shots
        trains = learner == self.learners[0]
        made = qs.ConditionalNeuralProcess(network, 8) if trains else qs.LinearProbe(network)
        if not trains:
            made.requires_grad_(False)
        train = test = qs.tasks.Sinusoids(shots, self.queries)
        if data != "waves":
            tasks = [self._task(each, shots) for each in sorted(root.glob("*.csv"))]
            train, test = qs.tasks.fixed(tasks[::2]), qs.tasks.fixed(tasks[1::2])
        return Prepared(
            made, train if trains else None, train if trains else None, test,
            "Curves that are not in training.", steps=6, tasks_per_step=2,
            baselines={"line": qs.LinearProbe(torch.nn.Identity()).requires_grad_(False)},
            test_tasks=5, validation_tasks=3,
        )  # fmt: skip

    def support(self, path: Path, learner: Learner) -> Support:
        rows = _points(path)
        return Support(qs.examples(rows[:, :1], rows[:, 1:]), qs.regression(), {"unit": "metres"})

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        x = [float(line) for path in paths for line in path.read_text().split()]
        return torch.tensor(x).unsqueeze(1), [f"x = {each:g}" for each in x]

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        y = predictor(inputs).flatten().tolist()
        if out is not None:
            np.savetxt(out / "y.txt", y)
        return [
            {"name": name, "y": each, "unit": predictor.info["unit"]}
            for name, each in zip(names, y, strict=True)
        ]

    def _task(self, path: Path, shots: int) -> Task:
        rows = _points(path)
        parts = (rows[:shots], rows[shots : shots + self.queries])
        given, asked = (qs.examples(part[:, :1], part[:, 1:]) for part in parts)
        assert isinstance(given, Examples)
        return Task(given, asked, qs.regression())


def _points(path: Path) -> torch.Tensor:
    try:
        return torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2))
    except ValueError as error:
        raise ValueError(f"{path}: must have two numbers a line ({error}). Correct it.") from error


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    """The application, as if it were one of the library's."""
    with pytest.MonkeyPatch.context() as patch:
        name = "quickstudy.applications.toy_application"
        patch.setitem(sys.modules, name, sys.modules[__name__])
        patch.setitem(registry.CARDS, CARD.name, CARD)
        for data in CARD.names:
            patch.setitem(registry.DATA, data, CARD)
        yield
