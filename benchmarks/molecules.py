"""Few active molecules in an unseen assay: learners over assays against forests and neighbours.

ToxCast, 617 assays. Tested are assays of families (makers) that no training sees, on 40% of the
molecules that no training sees. A task is one assay; its support set has 16 or 64 molecules in all,
with the share of actives of the assay, and the queries are all its other held-out molecules. Of
each assay that has enough there are 3 draws of the support set.

Scores are ΔAUPRC (average precision above the share of actives) and ROC-AUC. An interval is over
assays, each the mean of its draws; differences to the forest are paired by assay and draw.

    python benchmarks/molecules.py --root DATA
    python benchmarks/molecules.py --root DATA --picture docs/applications/molecules.png
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import GIN, Fingerprint, FingerprintMLP
from quickstudy.base.atomic import write_atomically
from quickstudy.datasets.assays import TOXCAST_TEST, AssayTable, Parts, family, load_assays, split
from quickstudy.evaluation.intervals import half_width
from quickstudy.learners.transfer.rank_ensemble import mean_of_ranks

RESULTS = Path(__file__).parent / "results" / "molecules.json"
SHOTS, MORE, LEAST = 16, 64, 10
"""Molecules of a support set, and of each class those that must be left as queries at 64 shots."""
SCORES = qs.ranking().answer.scores
FOREST, MAHALANOBIS, LOGISTIC = "forest", "multi-task, Mahalanobis", "multi-task, logistic head"
ENSEMBLE = "rank ensemble"
MEMBERS = FOREST, MAHALANOBIS
EPISODE_QUERIES, LABEL_ROWS = 64, 256

Logits = list[Tensor]


def pretrained(parts: Parts, seed: int, steps: int, graph: bool = False) -> qs.Learner:
    """Features trained on all labels of the training part, with a logistic head for new tasks."""
    torch.manual_seed(seed)
    learner = qs.MultitaskFeatures(
        qs.LinearProbe(GIN() if graph else FingerprintMLP(), qs.heads.logistic),
        len(parts.train.names),
    )
    source = parts.train.as_labels(LABEL_ROWS)
    qs.fit(learner, source, steps, 1, seed=seed, progress=False)
    return learner.eval()


def episodic(learner: qs.Learner, parts: Parts, seed: int, steps: int, shots: int) -> qs.Learner:
    """A learner trained on tasks of training assays."""
    source = parts.train.usable(shots, LEAST).tasks(shots, EPISODE_QUERIES)
    qs.fit(learner, source, steps, 4, seed=seed, progress=False)
    return learner.eval()


class Bench:
    """Learners by method, each made and trained once, and the tasks of the test part."""

    def __init__(self, table: AssayTable, seed: int, draws: int, steps: int) -> None:
        tested = [name for name in table.names if family(name) in TOXCAST_TEST]
        self.parts = split(table, tested, seed=seed)
        self.test = self.parts.test.usable(MORE, LEAST)
        self.seed, self.draws, self.steps = seed, draws, steps
        self._pretrained: dict[bool, qs.Learner] = {}
        self._logits: dict[tuple[str, int], Logits] = {}

    def tasks(self, shots: int) -> Iterator[qs.Task]:
        """``draws`` of each assay, one at a time: together they take a gigabyte."""
        source = self.test.tasks(shots)
        for column in range(len(self.test.names)):
            for draw in range(self.draws):
                yield source.numbered(column, draw, self.seed)

    def learner(self, method: str, shots: int) -> qs.Learner:
        """The learner of this method, trained."""
        fingerprint = Fingerprint()
        ready: dict[str, Callable[[], qs.Learner]] = {
            FOREST: lambda: qs.RandomForest(fingerprint),
            "neighbours": lambda: qs.NearestNeighbours(Fingerprint(binary=True)),
            LOGISTIC: lambda: self.features().learner,
            MAHALANOBIS: lambda: qs.PrototypicalMahalanobis(self.features().learner.backbone),
            "multi-task, Mahalanobis, GIN": lambda: qs.PrototypicalMahalanobis(
                self.features(graph=True).learner.backbone
            ),
            "Mahalanobis over tasks": lambda: self.over_tasks(qs.PrototypicalMahalanobis, shots),
            "ADKF-IFT": lambda: self.over_tasks(qs.ADKFIFT, shots),
        }
        return ready[method]()

    def features(self, graph: bool = False) -> Any:
        """The learner pretrained on the labels; trained at the first call."""
        if graph not in self._pretrained:
            self._pretrained[graph] = pretrained(self.parts, self.seed, self.steps, graph)
        return self._pretrained[graph]

    def over_tasks(self, make: Callable[..., qs.Learner], shots: int) -> qs.Learner:
        """Trained on tasks of ``shots`` rows."""
        torch.manual_seed(self.seed)
        return episodic(make(FingerprintMLP()), self.parts, self.seed, self.steps // 4, shots)

    def logits(self, method: str, shots: int) -> Logits:
        """Of the queries of every task; an ensemble's are the mean ranks of its members."""
        key = method, shots
        if key not in self._logits:
            if method == ENSEMBLE:
                members = [self.logits(each, shots) for each in MEMBERS]
                found = [mean_of_ranks(each) for each in zip(*members, strict=True)]
            else:
                learner = self.learner(method, shots)
                with torch.no_grad():
                    found = [
                        learner(task.support, task.spec)(task.query.inputs)
                        for task in self.tasks(shots)
                    ]
            self._logits[key] = found
        return self._logits[key]

    def scored(self, method: str, shots: int) -> dict[str, list[list[float]]]:
        """By assay, for each draw [ΔAUPRC, ROC-AUC]."""
        found: dict[str, list[list[float]]] = {}
        tasks, logits = self.tasks(shots), self.logits(method, shots)
        for number, (task, of_task) in enumerate(zip(tasks, logits, strict=True)):
            values = [s.value(s.statistic(of_task, task.query)) for s in SCORES]
            name = self.test.names[number // self.draws]
            found.setdefault(name, []).append([round(float(value), 5) for value in values])
        return found


METHODS = (
    FOREST, MAHALANOBIS, ENSEMBLE, LOGISTIC, "neighbours", "Mahalanobis over tasks", "ADKF-IFT",
    "multi-task, Mahalanobis, GIN",
)  # fmt: skip


def table_of(scores: dict[str, Any]) -> dict[str, Any]:
    """Means over assays with 95% intervals, and the difference to the forest, of each method."""
    rows = {}
    for method, of_assays in scores.items():
        means = torch.tensor(list(of_assays.values())).mean(1)
        row = {}
        for place, score in enumerate(SCORES):
            own = means[:, place]
            row[score.name] = round(float(own.mean()), 4)
            row[f"{score.name} half_width"] = round(half_width(own), 4)
            if FOREST in scores and method != FOREST:
                forest = torch.tensor(list(scores[FOREST].values())).mean(1)[:, place]
                gain = own - forest
                row[f"{score.name} above forest"] = round(float(gain.mean()), 4)
                row[f"{score.name} above forest half_width"] = round(half_width(gain), 4)
        rows[method] = row
    return rows


def drawn(bench: Bench, assay: str, across: int = 8, side: int = 120) -> bytes:
    """A PNG of one task: all tested molecules of ``assay``, and the first as the forest ranks."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    place = bench.test.names.index(assay)
    task = bench.test.tasks(SHOTS).numbered(place, 0, bench.seed)
    with torch.no_grad():
        logits = bench.learner(FOREST, SHOTS)(task.support, task.spec)(task.query.inputs)
    first = (logits[:, 0] - logits[:, 1]).argsort(stable=True)[: 2 * across]
    molecules, legends = [], []
    for rows, told in ((task.support, "tested"), (task.query, "")):
        for k, row in enumerate(first.tolist() if not told else range(len(rows.weights)), 1):
            codes = rows.inputs["smiles"][row]
            text = bytes(code for code in codes.tolist() if code > 0).decode()
            active = "active" if rows.targets[row] == 1 else "not"
            molecules.append(Chem.MolFromSmiles(text))
            legends.append(f"{told}: {active}" if told else f"{k}: {active}")
    down = -(-len(molecules) // across)
    canvas = rdMolDraw2D.MolDraw2DCairo(across * side, down * side, side, side)
    canvas.drawOptions().legendFontSize = 14
    canvas.DrawMolecules(molecules, legends=legends)
    canvas.FinishDrawing()
    found: bytes = canvas.GetDrawingText()
    return found


def main() -> None:
    """All methods on the same tasks; one that has a result is left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--shots", nargs="*", type=int, default=[SHOTS, MORE])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of multi-task training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, help="draw a task in this file, and no more")
    parser.add_argument("--assay", default="OT_ER_ERaERa_1440", help="of the picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    table = load_assays("toxcast", options.root, graph=any("GIN" in m for m in options.methods))
    bench = Bench(table, options.seed, options.draws, options.steps)
    if options.picture:
        write_atomically(options.picture, drawn(bench, options.assay))
        return
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    scores = found.setdefault("scores", {})
    for shots in options.shots:
        for method in options.methods:
            of_shots = scores.setdefault(str(shots), {})
            if method in of_shots:
                continue
            start = time.process_time()
            of_shots[method] = bench.scored(method, shots)
            seconds = round(time.process_time() - start, 1)
            found.setdefault("cpu_seconds", {}).setdefault(str(shots), {})[method] = seconds
            found["table"] = {shots: table_of(of) for shots, of in scores.items()}
            found["settings"] = {
                "test families": TOXCAST_TEST, "assays": len(bench.test.names),
                "training assays": len(bench.parts.train.names), "draws": options.draws,
                "seed": options.seed, "steps": options.steps, "labels' rows in a step": LABEL_ROWS,
                "molecules": [len(part.smiles) for part in bench.parts],
                "unread": len(table.invalid),
            }  # fmt: skip
            write_atomically(options.out, json.dumps(found, indent=1).encode())
            print(shots, method, found["table"][str(shots)][method], seconds, flush=True)


if __name__ == "__main__":
    main()
