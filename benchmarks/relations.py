"""Whether planted relations of tasks are found: which belong together, and which harm the others.

``qs.tasks.related`` makes linear tasks in known clusters, and harmful tasks whose function is
opposite to what all clusters have in common. Each measure gives an affinity of tasks:

    cosine, one network          gradient cosines at weights of 0 of a linear model that all share
    lookahead, one network       lookahead affinity (TAG) there
    cosine, hard sharing         mean over training of a shared trunk with a head for each task
    lookahead, hard sharing      likewise
    negative_transfer            the effect of each source on some targets, by ``LinearProbe``

Clusters are compared with the planted ones by the adjusted Rand index (ARI); harmful tasks form one
more. What a task gives to the others ranks the harmful ones: the area under the ROC curve (AUC).

    python benchmarks/relations.py --seeds 12

``--steps 0`` leaves hard sharing out, which takes most of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.metrics import roc_auc
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.relations import Affinity, AffinityRecorder, gradient_cosines, lookahead_affinity

RESULTS = Path(__file__).parent / "results" / "relations.json"
TASKS, CLUSTERS, HARMFUL, FEATURES, NOISE = 12, 3, 3, 20, 0.5
STEPS, HIDDEN, TARGETS = 200, 32, 4
"""Training steps and width of hard sharing; targets of ``negative_transfer`` in each family."""


class OneNetwork(qs.Learner):
    """The same network for all tasks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        """Nothing is adapted."""
        return {}

    def predict(self, state: Any, inputs: Tensor, spec: qs.TaskSpec) -> Tensor:
        """(n, 1)."""
        found: Tensor = self.network(inputs)
        return found


def affinities(tasks: Any, seed: int, steps: int) -> dict[str, Affinity]:
    """Every measure for one family of tasks."""
    given = tasks.tested_on(tasks).tasks
    network = nn.Linear(FEATURES, 1)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    one = OneNetwork(network)
    found = {
        "cosine, one network": gradient_cosines(one, given),
        "lookahead, one network": lookahead_affinity(one, given, rate=0.1),
    }
    if not steps:
        return found
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sharing = qs.HardSharing(qs.backbones.MLP(FEATURES, (HIDDEN,)), tasks.outputs)
    recorder = AffinityRecorder(sharing, tasks, every=max(steps // 10, 1), rows=64, seed=seed)
    qs.fit(
        sharing, tasks.batches(32), steps, len(tasks), seed=seed, on_step=recorder, progress=False
    )
    return found | {
        "cosine, hard sharing": recorder.cosines,
        "lookahead, hard sharing": recorder.lookahead,
    }


def given_by_sources(tasks: Any, seed: int) -> dict[str, float]:
    """The mean effect of each task, as a source, on the first few of the others as targets."""
    effects: dict[str, list[float]] = {name: [] for name in tasks}
    for target in list(tasks)[:TARGETS]:
        sources = {name: tasks[name] for name in tasks if name != target}
        found = qs.negative_transfer(
            qs.LinearProbe(nn.Identity()), sources, tasks[target], qs.regression(), labelled=10,
            repeats=3, seed=seed,
        )  # fmt: skip
        for row in found.table:
            effects[row.name].append(row.effect)
    return {name: sum(of) / len(of) for name, of in effects.items() if of}


def ari(found: Affinity, truth: list[int], k: int | None) -> float:
    """The adjusted Rand index of the clusters of ``found``, with the planted ones."""
    label = {name: c for c, cluster in enumerate(found.clusters(k)) for name in cluster}
    return float(adjusted_rand_score(truth, [label[name] for name in found.names]))


def auc(given: Mapping[str, float], names: list[str], truth: list[int]) -> float:
    """How well giving little tells harmful tasks."""
    scores = torch.tensor([-given[name] for name in names], dtype=torch.float64)
    harmful = torch.tensor([float(of < 0) for of in truth], dtype=torch.float64)
    return float(roc_auc(scores, harmful, torch.ones_like(scores)))


def results_of(rows: int, seeds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """For each measure, the ARI (number of clusters chosen, and known) and the AUC of each seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        made = qs.tasks.related(
            TASKS, CLUSTERS, NOISE, harmful=HARMFUL, features=FEATURES, rows=rows, seed=seed
        )
        names, truth = list(made.tasks), made.clusters.tolist()
        for measure, affinity in affinities(made.tasks, seed, steps).items():
            of = found.setdefault(measure, {"ari": [], "ari_k_known": [], "auc": []})
            of["ari"].append(ari(affinity, truth, None))
            of["ari_k_known"].append(ari(affinity, truth, CLUSTERS + 1))
            of["auc"].append(auc(affinity.given, names, truth))
        of = found.setdefault("negative_transfer", {"auc": []})
        of["auc"].append(auc(given_by_sources(made.tasks, seed), names, truth))
    return found


def summary(values: list[float]) -> dict[str, Any]:
    """Mean, half the 95% interval over seeds, and each seed's value."""
    mean, width = sum(values) / len(values), half_width(torch.tensor(values))
    each = [round(value, 4) for value in values]
    return {"mean": mean, "half_width": width if len(values) > 1 else None, "seeds": each}


def main() -> None:
    """Families with many and with few rows for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--rows", type=int, nargs="*", default=[30, 100, 300])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = {"tasks": TASKS, "clusters": CLUSTERS, "harmful": HARMFUL, "features": FEATURES,
             "noise": NOISE, "steps": options.steps, "seeds": options.seeds}  # fmt: skip
    found: dict[str, Any] = {"about": about, "rows": {}}
    for rows in options.rows:
        start = time.process_time()
        measures = results_of(rows, options.seeds, options.steps)
        found["rows"][rows] = {
            measure: {name: summary(values) for name, values in of.items()}
            for measure, of in measures.items()
        }
        found["rows"][rows]["cpu_seconds"] = round(time.process_time() - start, 1)
        for measure, of in found["rows"][rows].items():
            if isinstance(of, dict):
                told = {n: f"{v['mean']:.3f} ± {v['half_width'] or 0:.3f}" for n, v in of.items()}
                print(rows, measure, told, flush=True)
    write_atomically(options.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
