"""Twelve assays of Tox21: what a network shared by all assays gives over one network each.

Rows are fingerprints (Morgan, radius 2, 1,024 bits). They are split at random, 80/10/10, for each
seed: one split of molecules for all assays, so a test molecule is trained on in none. The score is
the mean of the ROC-AUC of the assays, over their known labels.

Every method chooses among four candidates by the mean ROC-AUC of the validation molecules: logistic
regression among penalties, and each network among numbers of passes over the labels. All networks
have 512 hidden units, and Adam at one rate.

    python benchmarks/tox21.py --root DATA
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.metrics import roc_auc
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width

RESULTS = Path(__file__).parent / "results" / "tox21.json"
HIDDEN, RATE, BATCH = 512, 1e-3, 64
PASSES = (2, 4, 7, 10)
"""Passes over the known labels after which a network is a candidate."""
PASSES_WITH_DROPOUT = (5, 10, 20, 30)
PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Candidates of logistic regression: ``C`` of scikit-learn."""
DROPPED = 0.2, 0.5
"""Shares of the inputs and of the hidden units that dropout leaves out."""
LABELS = "all assays"


class WithDropout(nn.Module):
    """The hidden layer, with dropout of its inputs and of its units."""

    features = HIDDEN

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(DROPPED[0]), nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Dropout(DROPPED[1])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, 512)."""
        features: Tensor = self.layers(x)
        return features


Parts = tuple[qs.tasks.NamedTasks, qs.tasks.NamedTasks, qs.tasks.NamedTasks]
Scores = dict[str, float]
Candidates = Iterator[tuple[str, Scores, Scores]]
"""Name, validation scores and test scores (by assay) of each candidate."""
Method = Callable[[Parts, int], Candidates]


def split(tasks: qs.tasks.NamedTasks, seed: int) -> Parts:
    """Training, validation and test rows: 80, 10 and 10 percent of the molecules."""
    train, rest = tasks.split_rows(0.8, seed)
    return train, *rest.split_rows(0.5, seed)


def aucs(predict: Callable[[str, Tensor], Tensor], part: qs.tasks.NamedTasks) -> Scores:
    """The ROC-AUC of each assay."""
    found = {}
    for name in part:
        x, y, weights, _ = part[name]
        found[name] = float(roc_auc(predict(name, x).flatten(), y.flatten(), weights))
    return found


def logistic(parts: Parts, seed: int) -> Candidates:
    """One logistic regression for each assay."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    train, *others = parts
    for penalty in PENALTIES:
        models = {}
        for name in train:
            model = LogisticRegression(C=penalty, solver="liblinear", random_state=seed)
            rows = csr_matrix(train[name].inputs.numpy())
            models[name] = model.fit(rows, train[name].targets.flatten().numpy())

        def predict(name: str, x: Tensor, models: dict[str, Any] = models) -> Tensor:
            return torch.from_numpy(models[name].decision_function(csr_matrix(x.numpy())))

        yield f"C={penalty}", *(aucs(predict, part) for part in others)


def network(
    make: Callable[[int, dict[str, int]], qs.Learner],
) -> Callable[[Parts, int], Candidates]:
    """A learner that knows the assays by name, trained on batches of known labels."""

    def candidates(parts: Parts, seed: int) -> Candidates:
        train = parts[0]
        each = BATCH // 2  # support rows count as query rows do
        assays = len(train)
        steps = sum(train.counts.values()) / (assays * BATCH)
        learner = make(columns_of(train), train.outputs)
        source = train.batches(rows=each, support=each)
        yield from trained(learner, source, assays, steps, parts, seed)

    return candidates


def one_of_labels(make: Callable[[int], nn.Module], passes: tuple[int, ...]) -> Method:
    """One network with an output for each assay; the loss leaves unknown labels out."""

    def candidates(parts: Parts, seed: int) -> Candidates:
        train = parts[0]
        inputs, labels = table_of(train)
        whole = qs.tasks.domains({LABELS: (inputs, labels, qs.multilabel(len(train)))})
        learner = qs.HardSharing(make(inputs.shape[1]), whole.outputs)
        source = whole.batches(rows=BATCH // 2, support=BATCH // 2)
        yield from trained(learner, source, 1, len(inputs) / BATCH, parts, seed, passes)

    return candidates


def trained(
    learner: qs.Learner,
    source: qs.core.TaskSource,
    tasks_per_step: int,
    steps: float,
    parts: Parts,
    seed: int,
    passes: tuple[int, ...] = PASSES,
) -> Candidates:
    """The learner after each of ``passes``; ``steps`` are those of one pass."""
    ends = {max(round(each * steps), 1): each for each in passes}
    found = []

    def score(step: Any) -> None:
        if step.step in ends:
            learner.eval()
            predict = predictions_of(learner, parts[0])
            with torch.no_grad():
                scores = [aucs(predict, part) for part in parts[1:]]
            found.append((f"{ends[step.step]} passes", *scores))
            learner.train()

    qs.fit(
        learner, source, max(ends), tasks_per_step, optimiser=qs.optimisers.adam(RATE), seed=seed,
        on_step=score, progress=False,
    )  # fmt: skip
    yield from found


def predictions_of(
    learner: qs.Learner, train: qs.tasks.NamedTasks
) -> Callable[[str, Tensor], Tensor]:
    """Predictions for an assay by name: of its own task, or its column of the task of all."""
    assays = list(train)

    def predict(name: str, x: Tensor) -> Tensor:
        if name in learner.tasks:
            return learner.predict({}, x, train.specs[name])
        spec = qs.TaskSpec(qs.answers.Labels(len(assays)), LABELS)
        return learner.predict({}, x, spec)[:, assays.index(name)]

    return predict


def methods() -> dict[str, Method]:
    """By name, the simplest first."""

    def mlp(d: int) -> qs.backbones.MLP:
        return qs.backbones.MLP(d, (HIDDEN,))

    return {
        "single logistic": logistic,
        "single networks": network(lambda d, tasks: qs.SingleTask(mlp(d), tasks)),
        "one network of 12 labels": one_of_labels(mlp, PASSES),
        "the same with dropout": one_of_labels(WithDropout, PASSES_WITH_DROPOUT),
        "HardSharing": network(lambda d, tasks: qs.HardSharing(mlp(d), tasks)),
        "MMoE": network(
            lambda d, tasks: qs.MMoE(
                qs.backbones.Features(d), tasks, experts=4, hidden=(HIDDEN // 4,)
            )
        ),
    }


def columns_of(tasks: qs.tasks.NamedTasks) -> int:
    """The number of columns of a row."""
    return int(next(iter(tasks.values())).inputs.shape[1])


def table_of(tasks: qs.tasks.NamedTasks) -> tuple[Tensor, Tensor]:
    """The molecules (n, d) that have a label, and their labels (n, assays), NaN where unknown."""
    index = tasks.rows.index
    rows = torch.cat(list(index.values())).unique()
    labels = torch.full((len(rows), len(tasks)), torch.nan)
    for column, name in enumerate(tasks):
        labels[torch.searchsorted(rows, index[name]), column] = tasks[name].targets.flatten()
    return next(iter(tasks.rows.inputs.values()))[rows], labels


def chosen(candidates: Candidates) -> dict[str, Any]:
    """The test scores of the candidate with the best mean over the validation assays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = list(candidates)
    name, validation, test = max(found, key=lambda each: mean(each[1]))
    return {
        "candidate": name,
        "validation": round(mean(validation), 4),
        "mean": round(mean(test), 4),
        "worst": round(min(test.values()), 4),
        "assays": {assay: round(value, 4) for assay, value in test.items()},
        "test_of_all_candidates": {each[0]: round(mean(each[2]), 4) for each in found},
    }


def mean(scores: Scores) -> float:
    """Over the assays that have a score."""
    return float(np.nanmean(list(scores.values())))


def summary(
    of_seeds: dict[str, dict[str, Any]], single: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Means over the seeds with 95% intervals, and the comparison with single networks."""
    shared = [seed for seed in of_seeds if seed in single]
    means = torch.tensor([each["mean"] for each in of_seeds.values()])
    gains = torch.tensor([of_seeds[seed]["mean"] - single[seed]["mean"] for seed in shared])
    return {
        "mean": round(float(means.mean()), 4),
        "half_width": round(half_width(means), 4),
        "gain_over_single_networks": round(float(gains.mean()), 4) if shared else None,
        "gain_half_width": round(half_width(gains), 4) if len(shared) > 1 else None,
        "seeds_above_single_networks": f"{int((gains > 0).sum())} of {len(shared)}",
    }


def main() -> None:
    """All methods on the same splits; one that has a result for a seed is left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(methods()), choices=list(methods()))
    parser.add_argument("--molecules", type=int, help="take only the first so many, for a trial")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = load(options.root, options.molecules)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    scores = found.setdefault("scores", {})
    for seed in range(options.seeds):
        parts = split(tasks, seed)
        for name in options.methods:
            if str(seed) in scores.get(name, {}):
                continue
            torch.manual_seed(seed)
            start = time.process_time()
            result = chosen(methods()[name](parts, seed))
            result["cpu_seconds"] = round(time.process_time() - start, 1)
            scores.setdefault(name, {})[str(seed)] = result
            print(seed, name, result["candidate"], result["mean"], flush=True)
            found["table"] = {
                method: summary(of, scores.get("single networks", {}))
                for method, of in scores.items()
            }
            found["settings"] = {
                "molecules": options.molecules or "all", "split": "random 80/10/10",
                "candidates of a network": [f"{n} passes" for n in PASSES],
                "candidates with dropout": [f"{n} passes" for n in PASSES_WITH_DROPOUT],
                "dropout of inputs and hidden units": DROPPED,
                "candidates of logistic regression": [f"C={c}" for c in PENALTIES],
                "hidden": HIDDEN, "rate": RATE, "labels in a step": BATCH * len(tasks),
            }  # fmt: skip
            write_atomically(options.out, json.dumps(found, indent=1).encode())
    for name, row in found["table"].items():
        print(name, row)


def load(root: Path, molecules: int | None = None) -> qs.tasks.NamedTasks:
    """The assays by name; ``molecules`` for the first so many of them."""
    tasks = qs.datasets.load_named_tasks("tox21", root)
    if molecules is None:
        return tasks
    inputs, labels = table_of(tasks)
    return qs.tasks.columns(inputs[:molecules], labels[:molecules], list(tasks))


if __name__ == "__main__":
    main()
