"""MAML on an easy and a hard source: does a balancer help the worse one?

    python benchmarks/balancing.py                          # all, about 10 minutes on one core
    python benchmarks/balancing.py equal upgrad             # these; other results are kept

Printed characters of the data set ``glyphs``, at 14x14: 5 ways, 5 shots, 10 queries, classes of
scripts that training has not seen. The easy source has them as they are; in the hard one, each
picture has random noise on it. A step has 8 tasks, each of either source with equal chance. A
*source* is a task of the balancer: its drawn tasks are averaged first. Methods that need no names
are also run on the 8 drawn tasks as a task each ("each drawn task").

MAML takes one inner step, with a perceptron of 64 hidden units and Adam at 1e-3. Each seed gives
other initial weights and other training tasks; test tasks are the same for all methods. Reported
is the mean over seeds with a 95% interval (Student's t), for each source, for the worse of the
two (taken seed by seed), and the difference to the mean paired by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch.nn.functional import avg_pool2d

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Examples, Task, TaskSource, TaskSpec
from quickstudy.interfaces.runs.provenance import commit

RESULTS = Path(__file__).parent / "results" / "balancing.json"
TEST_SEED = 1_000_003
NOISE = 0.5
NAMES = ("easy", "hard")

METHODS: dict[str, Callable[[], Any]] = {
    "mean": lambda: qs.balancing.mean,
    "equal": qs.balancing.Equal,
    "hard weighs 3": lambda: qs.balancing.Constant({"easy": 1.0, "hard": 3.0}),
    "easy weighs 3": lambda: qs.balancing.Constant({"easy": 3.0, "hard": 1.0}),
    "uncertainty": qs.balancing.Uncertainty,
    "gradnorm": qs.balancing.GradNorm,
    "stch": lambda: qs.balancing.STCH(0.1),
    "upgrad": qs.balancing.UPGrad,
    "mgda": qs.balancing.MGDA,
    "cagrad": qs.balancing.CAGrad,
    "upgrad, each drawn task": qs.balancing.UPGrad,
    "stch, each drawn task": lambda: qs.balancing.STCH(0.1),
}


def source_of(rows: Any, hard: bool, named: bool) -> TaskSource:
    """Episodes of ``rows``, with noise where ``hard``."""
    episodes = qs.episodes(rows, ways=5, shots=5, queries=10)
    name = NAMES[hard] if named else ""

    def source(generator: torch.Generator) -> Task:
        support, query, spec = episodes(generator)

        def part(examples: Examples) -> Examples:
            pixels = examples.inputs.float()
            if hard:
                pixels = pixels + NOISE * torch.randn(pixels.shape, generator=generator)
            return examples._replace(inputs=pixels)

        return Task(part(support), part(query), TaskSpec(spec.answer, name))

    return source


def small(rows: qs.LabelledRows) -> qs.LabelledRows:
    """The pictures as vectors (196,)."""
    pixels = avg_pool2d(rows.inputs.float() / 255, 2).flatten(1)
    return replace(rows, inputs=pixels)


def training_source(rows: Any, named: bool) -> TaskSource:
    return qs.tasks.mixture([source_of(rows, hard, named) for hard in (False, True)])


def run(method: str, data: Any, seed: int, steps: int, tasks: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    learner = qs.MAML(qs.backbones.MLP(196, (64,), outputs=5), 1, 0.3)
    source = training_source(data["train"], named="each" not in method)
    began = time.process_time()
    qs.fit(learner, source, steps, 8, combine=METHODS[method](), seed=seed, progress=False)
    seconds = time.process_time() - began
    scores: dict[str, Any] = {}
    for hard, name in enumerate(NAMES):
        test = source_of(data["test"], bool(hard), named=True)
        result = qs.evaluate(learner, test, tasks, seed=TEST_SEED, baselines=False).rows[0]
        scores[name] = [round(float(value), 4) for value in result.values]
    return {"scores": scores, "milliseconds_per_step": round(1000 * seconds / steps, 2)}


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and half of the 95% interval over seeds."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return {"mean": round(100 * float(values.mean()), 2), "half": round(100 * float(half), 2)}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    means = {
        method: np.array([[np.mean(r["scores"][name]) for name in NAMES] for r in each])
        for method, each in runs.items()
    }
    found = {}
    for method, each in means.items():
        row = {name: interval(each[:, place]) for place, name in enumerate(NAMES)}
        row["worst"] = interval(each.min(1))
        if "mean" in means and len(means["mean"]) == len(each) and method != "mean":
            row["worst, less the mean's"] = interval(each.min(1) - means["mean"].min(1))
        row["milliseconds"] = float(np.median([r["milliseconds_per_step"] for r in runs[method]]))
        found[method] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    glyphs = qs.datasets.load("glyphs")
    data = {"train": small(glyphs.train), "test": small(glyphs.test)}
    kept = json.loads(options.out.read_text())["runs"] if options.out.exists() else {}
    for method in options.methods:
        kept[method] = [
            run(method, data, seed, options.steps, options.tasks) for seed in range(options.seeds)
        ]
        table = summary(kept)
        settings = {"steps": options.steps, "test tasks of each source": options.tasks,
                    "seeds": options.seeds, "test seed": TEST_SEED, "noise": NOISE,
                    "commit": commit()}  # fmt: skip
        text = json.dumps({"settings": settings, "summary": table, "runs": kept})
        write_atomically(options.out, text.encode())
        print(method, json.dumps(table[method]), flush=True)


if __name__ == "__main__":
    main()
