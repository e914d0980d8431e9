"""Molecules: which of a library are active in an assay, given few that were tested?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.specs import ranking
from quickstudy.applications.application import Application, Prepared, Support
from quickstudy.applications.molecule_files import library, pictures, tested_molecules
from quickstudy.applications.registry import OWN
from quickstudy.backbones.molecules.fingerprints import Fingerprint, FingerprintMLP
from quickstudy.backbones.molecules.gin import GIN
from quickstudy.base.words import count
from quickstudy.core import Learner, Predictor
from quickstudy.datasets.assays import (
    TOXCAST_TEST,
    AssayTable,
    Parts,
    family,
    load_assays,
    read_assays,
    split,
)
from quickstudy.learners.gradient.adkf_ift import ADKFIFT
from quickstudy.learners.metric.nearest_neighbours import NearestNeighbours
from quickstudy.learners.metric.prototypical_mahalanobis import PrototypicalMahalanobis
from quickstudy.learners.multitask.multitask_features import MultitaskFeatures
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.random_forest import RandomForest
from quickstudy.learners.transfer.rank_ensemble import RankEnsemble
from quickstudy.tasks.numbering import generator

SHOTS, QUERIES = 16, 10
"""Molecules of a support set, and fewest of each class that must be left as queries."""
TRAINING_QUERIES = 64
"""Queries of a training task, for learners that are trained over tasks."""
LABEL_STEPS, TASK_STEPS = 1000, 300
"""Of training on all labels at once, and over tasks: about a minute of one processor either way."""
ON_LABELS = ("rank_ensemble", "multitask_features")
UNTRAINED = ("random_forest", "nearest_neighbours")
NAMES = ("inactive", "active")


@dataclass(frozen=True)
class MoleculesInAssays(Application):
    """Active molecules in a new assay, from few that were tested.

    ``encoder``   what learners that are trained read: "fingerprint" (a perceptron on counted
                  ECFP4) or "graph" (a graph isomorphism network). Forests and neighbours always
                  read fingerprints.
    ``assay``     of several columns in a CSV file to adapt to, the one that is asked for.
    ``held_out``  the share of molecules that only test tasks have.
    ``strict``    whether a SMILES that cannot be read is an error.
    """

    encoder: str = "fingerprint"
    assay: str = ""
    held_out: float = 0.4
    strict: bool = False

    name: ClassVar[str] = "molecules"
    learners: ClassVar[tuple[str, ...]] = (
        "rank_ensemble", "multitask_features", "prototypical_mahalanobis", "adkf_ift",
        "random_forest", "nearest_neighbours",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.encoder not in ("fingerprint", "graph"):
            raise ValueError(
                f'molecules: encoder must be "fingerprint" or "graph"; found {self.encoder!r}.'
            )

    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The parts of a run on ``toxcast``, or on ``root``, a CSV file or the folder of one.

        Raises ValueError where a part of the assays has none with molecules enough.
        """
        shots = SHOTS if shots is None else shots
        parts = self._parts(data, root, seed)
        test = _enough(parts.test, shots, "test")
        of_labels = learner in ON_LABELS
        train: Any = None
        if of_labels:
            train = parts.train.as_labels()
        elif learner not in UNTRAINED:
            train = _enough(parts.train, shots, "train").tasks(shots, TRAINING_QUERIES)
        where = "that nothing was trained on" if data == OWN else "of families not trained on"
        about = (
            f"Which molecules are active in an assay, given {shots} of them. The test has "
            f"{count(len(test.names), 'assay')} {where}, and "
            f"{count(len(test.smiles), 'molecule')} that no training saw."
        )
        baselines: dict[str, Learner] = {
            "random forest": RandomForest(Fingerprint()),
            "nearest neighbours": NearestNeighbours(Fingerprint(binary=True)),
        }
        return Prepared(
            self.learner(learner, len(parts.train.names), seed),
            train,
            None,
            test.tasks(shots),
            about,
            steps=0 if train is None else LABEL_STEPS if of_labels else TASK_STEPS,
            tasks_per_step=1 if of_labels else 4,
            names=lambda _: NAMES,
            baselines={n: b for n, b in baselines.items() if n != learner.replace("_", " ")},
            test_tasks=200,
        )

    def learner(self, name: str, labels: int, seed: int) -> Learner:
        """The learner of this ``name``; ``labels`` are the assays to pretrain on."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._made(name, labels)

    def _made(self, name: str, labels: int) -> Learner:
        encoder: Callable[[], nn.Module] = GIN if self.encoder == "graph" else FingerprintMLP
        made: dict[str, Callable[[], Learner]] = {
            "rank_ensemble": lambda: RankEnsemble([
                MultitaskFeatures(PrototypicalMahalanobis(encoder()), labels),
                RandomForest(Fingerprint()),
            ]),
            "multitask_features": lambda: MultitaskFeatures(
                LinearProbe(encoder(), logistic), labels
            ),
            "prototypical_mahalanobis": lambda: PrototypicalMahalanobis(encoder()),
            "adkf_ift": lambda: ADKFIFT(encoder()),
            "random_forest": lambda: RandomForest(Fingerprint()),
            "nearest_neighbours": lambda: NearestNeighbours(Fingerprint(binary=True)),
        }  # fmt: skip
        return made[name]()

    def support(self, path: Path, learner: Learner) -> Support:
        """The tested molecules of a CSV file with a column ``smiles``, and the column of ``assay``.

        Molecules whose label is empty are left out. Raises ValueError for a file that is no such
        table, for several columns of labels where ``assay`` names none, for labels of one class
        only, and where ``strict`` for SMILES that cannot be read.
        """
        tested = tested_molecules(path, self.assay, self._graph, self.strict)
        info = {"assay": tested.assay, "support": list(tested.smiles), "names": list(NAMES)}
        return Support(tested.examples, ranking(tested.assay), info)

    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The molecules of CSV files with a column ``smiles``, or of files of one SMILES a line."""
        return library(paths, self._graph, self.strict)

    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """The place of each molecule, 1 the most probably active, and its score, in [0, 1].

        The score is a probability; of an ensemble of ranks, the mean share of molecules below it.
        In ``out``, ``molecules.svg`` draws the first of them.
        """
        with torch.no_grad():
            scores = predictor(inputs).softmax(-1)[:, 1]
        places = _places(scores)
        rows: list[dict[str, Any]] = [
            {"name": name, "place": place, "score": round(float(score), 5)}
            for name, place, score in zip(names, places, scores, strict=True)
        ]
        known = set(predictor.info.get("support", ()))
        for row in rows:
            if row["name"] in known:
                row["tested"] = True
        if out is not None:
            pictures(rows, out / "molecules.svg")
        return rows

    @property
    def _graph(self) -> bool:
        return self.encoder == "graph"

    def _parts(self, data: str, root: Path | None, seed: int) -> Parts:
        """The assays and molecules to train on, and others to test on."""
        if data != OWN:
            table = load_assays(data, root, self._graph, self.strict)
            asked = [name for name in table.names if family(name) in TOXCAST_TEST]
            return split(table, asked, self.held_out, seed)
        table = read_assays(_own_file(root), self._graph, self.strict)
        if len(table.names) < 2:
            raise ValueError(
                f"{root}: a run needs assays to train on and others to test on; found "
                f"{len(table.names)}. Use quickstudy adapt for one assay."
            )
        order = torch.randperm(len(table.names), generator=generator(seed)).tolist()
        some = order[: max(1, math.ceil(0.3 * len(order)))]
        return split(table, [table.names[place] for place in some], self.held_out, seed)


def _enough(table: AssayTable, shots: int, part: str) -> AssayTable:
    """The assays with molecules enough for a task; ValueError where there is none."""
    found = table.usable(shots, QUERIES)
    if not found.names:
        raise ValueError(
            f"molecules: none of {count(len(table.names), 'assay')} to {part} on has molecules "
            f"enough: {shots} to learn from, and {QUERIES} active and {QUERIES} inactive ones "
            "beside them. Give more molecules, or fewer shots."
        )
    return found


def _own_file(root: Path | None) -> Path:
    """The user's CSV file: ``root``, or the only one in it."""
    if root is None:
        raise ValueError(
            "molecules: needs a CSV file of molecules, or its folder. Give it as root (--root "
            "FOLDER), or choose other data: --data toxcast."
        )
    if not Path(root).is_dir():
        return Path(root)
    files = sorted(Path(root).glob("*.csv"))
    if len(files) != 1:
        raise ValueError(
            f"{root}: must hold one CSV file of molecules; found {len(files)}. Give the file "
            "itself as root."
        )
    return files[0]


def _places(scores: Tensor) -> list[int]:
    """From 1, the highest score first; equal scores in the order given."""
    order = scores.argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(1, len(order) + 1, device=order.device)
    found: list[int] = places.tolist()
    return found
