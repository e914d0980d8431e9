"""Sinusoid regression by every learner that regresses: the same tasks, as many for each.

    python benchmarks/sinusoid_learners.py                 # all, about 40 minutes on one core
    python benchmarks/sinusoid_learners.py maml reptile    # these, beside the results there are

Tasks of MAML's paper (section 5.1): 10 support points, as many queries in training, 100 in testing.
Every learner trains on 25 tasks a step with Adam at 1e-3 along a cosine, two hidden layers of 40
where it adapts a perceptron, and is tested, inductively, on the same 1000 tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from quickstudy.reports.tables import markdown_table
from quickstudy.runs.provenance import commit
from quickstudy.storage import write_atomically
from quickstudy.training.trainer import adam, cosine

RESULTS = Path(__file__).parent / "results" / "sinusoid_learners.json"
TEST_SEED = 1_000_002
SHOTS = 10


def _net(inputs: int = 1, outputs: int | None = 1) -> qs.backbones.MLP:
    return qs.backbones.MLP(inputs, (40, 40), outputs=outputs)


LEARNERS: dict[str, Callable[[], qs.Learner]] = {
    "maml": lambda: qs.MAML(_net(), 1, 0.01),
    "linear_probe": lambda: qs.LinearProbe(_net(outputs=None)),
}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.learners or LEARNERS:
        results[name] = _measured(name, args)
        ordered = {n: results[n] for n in LEARNERS if n in results}
        write_atomically(RESULTS, (json.dumps(ordered, indent=1) + "\n").encode())
    print(markdown_table(_table(results)))


def _measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(args.seed)
    learner = LEARNERS[name]()
    cpu = time.process_time()
    training = qs.fit(
        learner, qs.Sinusoids(SHOTS, SHOTS), steps=args.steps, tasks_per_step=25,
        optimiser=adam(1e-3), schedule=cosine, seed=args.seed, log_every=args.steps,
    )  # fmt: skip
    minutes = (time.process_time() - cpu) / 60
    evaluation = qs.evaluate(
        learner, qs.Sinusoids(SHOTS, 100), tasks=args.test_tasks, seed=TEST_SEED
    )
    print(f"{name}: {evaluation}, {minutes:.1f} CPU minutes", flush=True)
    about = evaluation.to_json()
    del about["scores"]
    return {"steps": args.steps, "cpu_minutes": round(minutes, 1), "engine": str(training.plan),
            "seed": args.seed, "commit": commit(), "torch": torch.__version__, **about}  # fmt: skip


def _table(results: dict[str, Any]) -> list[dict[str, object]]:
    return [
        {"learner": name, "mean squared error": f"{r['mean']:.3f} ± {r['half_width']:.3f}",
         "protocol": r["protocol"], "CPU minutes": r["cpu_minutes"]}
        for name, r in results.items()
    ]  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("learners", nargs="*", help="all by default")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.learners:
        if name not in LEARNERS:
            parser.error(f"{name!r} is not one of {', '.join(LEARNERS)}")
    return args


if __name__ == "__main__":
    main()
