"""Score against the number of kinds of pictures that training mixes.

A kind is a data set, made grey and 28 pixels wide: printed characters, drawn characters, emoji,
photographs. Training draws each task from one of the first 1, 2 or 4 kinds (``qs.tasks.mixture``),
with the same number of steps each time, so that a kind gets fewer tasks where more are mixed. Tests
are on new classes of every kind, on the same tasks for all.

    python benchmarks/heterogeneity.py --root shared/data --seeds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results_files import figure, gain, mean_of

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.datasets.dataset import Dataset
from quickstudy.evaluation.result import Result
from quickstudy.interfaces.runs.provenance import commit

RESULTS = Path(__file__).parent / "results" / "heterogeneity.json"
KINDS = ("glyphs", "omniglot", "emoji", "caltech101")
MIXED = (1, 2, 4)
WAYS, SHOTS, QUERIES, SIDE = 5, 1, 5, 28
CHANNELS = 16

Sources = Mapping[str, Mapping[str, qs.tasks.Episodes]]


def conv4(outputs: int | None = None) -> torch.nn.Module:
    return qs.backbones.Conv4(CHANNELS, image_size=SIDE, outputs=outputs)


LEARNERS: dict[str, tuple[Callable[[], qs.Learner], float, int]] = {
    "Prototypical": (lambda: qs.Prototypical(conv4()), 1e-3, 8),
    "MAML": (lambda: qs.MAML(conv4(WAYS)), 2e-3, 4),
    "Conditional Neural Process": (
        lambda: qs.ConditionalNeuralProcess(conv4()), 1e-3, 8,
    ),
}  # fmt: skip
"""How each is made, the rate of its training, and tasks of a step: a task of MAML takes about twice
as long."""


def grey(data: Dataset) -> dict[str, qs.LabelledRows]:
    """The splits with grey pictures (n, 1, 28, 28)."""
    found = {}
    for name, rows in data.splits.items():
        pictures = rows.inputs.float() / (255 if rows.inputs.dtype == torch.uint8 else 1)
        pictures = pictures.mean(1, keepdim=True)
        if pictures.shape[-1] != SIDE:
            pictures = F.interpolate(pictures, size=(SIDE, SIDE), mode="area")
        found[name] = replace(rows, inputs=pictures)
    return found


def sources(root: str | None, kinds: tuple[str, ...]) -> Sources:
    """Tasks of each kind, from training and from test classes; emoji have 4 pictures of a class."""
    found = {}
    for kind in kinds:
        queries = 3 if kind == "emoji" else QUERIES
        rows = grey(qs.datasets.load(kind, root))
        found[kind] = {
            split: qs.episodes(rows[split], WAYS, SHOTS, queries) for split in ("train", "test")
        }
    return found


def scored(
    learner: str, mixed: int, seed: int, found: Sources, steps: int, tasks: int
) -> tuple[dict[str, Result], float]:
    """Results on each kind after training on a mixture of the first ``mixed``, and CPU seconds."""
    make, rate, per_step = LEARNERS[learner]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make()
    mixture = qs.tasks.mixture([found[kind]["train"] for kind in list(found)[:mixed]])
    began = time.process_time()
    qs.fit(
        made, mixture, steps, per_step, optimiser=qs.optimisers.adam(rate), seed=seed,
        schedule=qs.schedules.cosine, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - began
    results = {
        kind: qs.evaluate(made, of["test"], tasks, seed=0, baselines=False).main
        for kind, of in found.items()
    }
    return results, seconds


def nearest_mean(found: Sources, tasks: int) -> dict[str, float]:
    """What class means of raw pictures score on each kind, the same for every training."""
    learner = qs.Prototypical(torch.nn.Flatten())
    return {
        kind: qs.evaluate(learner, of["test"], tasks, seed=0, baselines=False).mean
        for kind, of in found.items()
    }


def summary(rows: list[dict[str, Any]], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each learner and number of kinds: the score on each kind, the mean over seeds, and how
    much of the first kind's score is lost against training on it alone, from the tasks' pairs."""
    from quickstudy.evaluation.intervals import half_width

    def of(learner: str, mixed: int, kind: str) -> torch.Tensor:
        """(seeds, tasks) scores."""
        return torch.tensor([
            row["values"][kind] for row in rows
            if row["learner"] == learner and row["mixed"] == mixed
        ])  # fmt: skip

    found = []
    for learner, mixed in dict.fromkeys((row["learner"], row["mixed"]) for row in rows):
        change = (of(learner, mixed, kinds[0]) - of(learner, 1, kinds[0])).double()
        found.append({
            "learner": learner,
            "mixed": mixed,
            **{kind: {
                "mean": float(of(learner, mixed, kind).mean()),
                "half_width": half_width(of(learner, mixed, kind).mean(0)),
                "seeds": [round(x, 4) for x in of(learner, mixed, kind).mean(1).tolist()],
            } for kind in kinds},
            "all kinds": sum(float(of(learner, mixed, kind).mean()) for kind in kinds) / len(kinds),
            "change on the first": {
                "mean": float(change.mean()), "half_width": half_width(change.mean(0)),
                "seeds": [round(x, 4) for x in change.mean(1).tolist()],
            },
        })  # fmt: skip
    return found


def table(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of ``README.md``, from the score of every task: the mean over trainings ± over test
    tasks; of the change on the first kind, ± over trainings."""
    kinds = found["kinds"]

    def of(learner: str, mixed: int, kind: str) -> list[list[float]]:
        return [
            row["values"][kind] for row in found["rows"]
            if row["learner"] == learner and row["mixed"] == mixed
        ]  # fmt: skip

    rows = []
    for learner, mixed in dict.fromkeys((row["learner"], row["mixed"]) for row in found["rows"]):
        tasks = {k: [mean_of(task) for task in zip(*of(learner, mixed, k), strict=True)]
                 for k in kinds}  # fmt: skip
        alone, now = ([mean_of(seed) for seed in of(learner, n, kinds[0])] for n in (1, mixed))
        rows.append({
            "learner": learner,
            "kinds": str(mixed),
            **{kind: figure(scores) for kind, scores in tasks.items()},
            "mean": f"{100 * mean_of(map(mean_of, tasks.values())):.1f}",
            f"{kinds[0]} against 1 kind": "–" if mixed == 1 else gain(now, alone),
        })  # fmt: skip
    return rows


def main() -> None:
    """Train every learner on every mixture, and replace the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="Folder of the data sets.")
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kinds = tuple(arguments.kinds)
    found = sources(arguments.root, kinds)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for learner in arguments.learners:
            for mixed in [each for each in MIXED if each <= len(kinds)]:
                results, seconds = scored(
                    learner, mixed, seed, found, arguments.steps, arguments.tasks
                )
                rows.append({
                    "learner": learner, "mixed": mixed, "seed": seed,
                    "cpu_seconds": round(seconds, 1),
                    "values": {kind: [round(v, 4) for v in result.values.tolist()]
                               for kind, result in results.items()},
                })  # fmt: skip
                means = ", ".join(f"{kind} {result.figure}" for kind, result in results.items())
                print(f"seed {seed}, {learner}, {mixed} kinds: {means} ({seconds:.0f} s)")
        table = {
            "kinds": kinds, "ways": WAYS, "shots": SHOTS, "steps": arguments.steps,
            "test tasks of each kind": arguments.tasks, "seeds": seed + 1, "commit": commit(),
            "protocol": "inductive", "chance": 1 / WAYS,
            "nearest mean of raw pictures": nearest_mean(found, arguments.tasks),
            "table": summary(rows, kinds), "rows": rows,
        }  # fmt: skip
        content = json.dumps(table, indent=1, allow_nan=False) + "\n"
        write_atomically(arguments.out, content.encode())


if __name__ == "__main__":
    main()
