"""Whether a pull to a shared weight does harm where tasks are not alike.

Linear tasks with planted relations (``qs.tasks.related``) are fitted alone, together, and by
``MeanRegularised``; all choose their penalty by the same cross-validation (together has none). The
error is the expected squared error of a new row, known exactly from the planted weights.

    python benchmarks/pulled.py --draws 10
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit

RESULTS = Path(__file__).parent / "results" / "pulled.json"
TASKS, FEATURES, ROWS, NOISE = 24, 8, 20, 0.5
WORLDS: dict[str, dict[str, Any]] = {
    "alike": {"clusters": 1, "spread": 0.1},
    "three clusters": {"clusters": 3, "spread": 0.1},
    "a quarter harmful": {"clusters": 1, "spread": 0.1, "harmful": 6},
    "unlike": {"clusters": 1, "spread": 3.0},
}
PENALTIES = [10.0 ** (k / 2) for k in range(-4, 9)]
TOGETHER, ALONE = 1e9, 1e12
"""Penalties on deviations, so that there are none, and on the shared weight, so that it is 0."""


def errors(world: str, seed: int) -> dict[str, list[float]]:
    """The expected squared error of every task, fitted in each way."""
    options = WORLDS[world]
    made = qs.tasks.related(TASKS - options.get("harmful", 0), noise=NOISE, features=FEATURES,
                            rows=ROWS, seed=seed, **options)  # fmt: skip
    found = {}
    for way, how in (
        ("pulled", {"l2": PENALTIES}),
        ("alone", {"l2": PENALTIES, "l2_shared": ALONE}),
        ("together", {"l2": TOGETHER}),
    ):
        learner = qs.MeanRegularised(qs.backbones.Features(FEATURES)).double()
        learner.learn_from(made.tasks, **how)
        found[way] = []
        for (name, rows), truth in zip(made.tasks.items(), made.weights, strict=True):
            state = learner(rows, made.tasks.specs[name]).state
            wrong = state["weight"][:, 0] - truth  # inputs are standard normal
            squares = wrong.square().sum() + state["offset"][0].square() + NOISE**2
            found[way].append(float(squares.detach()))
    return found


def main() -> None:
    """Run all worlds and replace the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    results: dict[str, Any] = {"commit": commit(), "tasks": TASKS, "worlds": {}}
    for world in WORLDS:
        draws = [errors(world, seed) for seed in range(words.draws)]
        means = {way: torch.tensor([d[way] for d in draws]).mean(1) for way in draws[0]}
        better = min(("alone", "together"), key=lambda way: float(means[way].mean()))
        results["worlds"][world] = {
            "error": {way: [float(m.mean()), half_width(m)] for way, m in means.items()},
            "better": better,
            "ratio": float(means["pulled"].mean() / means[better].mean()),
            "draws": draws,
        }
        shown = {k: v for k, v in results["worlds"][world].items() if k != "draws"}
        print(world, shown, flush=True)
    write_atomically(words.out, (json.dumps(results) + "\n").encode())


if __name__ == "__main__":
    main()
