"""Few-shot classification of Omniglot, trained on CPU: one learner, one results file.

    python benchmarks/omniglot.py prototypical --steps 12000
    python benchmarks/omniglot.py maml --norm batch --steps 14000 --tasks-per-step 4

Protocol: the split of Vinyals et al. (1028/172/423 characters), rotations as new classes, 28x28,
Conv4-64, 1000 test tasks with 15 queries per class (5 at 20 ways). No augmentation beyond the
rotations, no early stopping: the weights after the last step are tested.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from quickstudy.runs.provenance import commit
from quickstudy.tasks.episodes import Episodes
from quickstudy.training.trainer import adam, cosine

RESULTS = Path(__file__).parent / "results"
# 5-way 1-shot and 20-way 1-shot: table 1 of Snell et al. (2017) and of Finn et al. (2017).
PUBLISHED = {
    "prototypical": (98.8, 96.0),
    "maml": (98.7, 95.8),
}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = qs.datasets.load("omniglot", root=args.root, rotations=True)
    learner, train, tested_ways = _setting(args, data)
    wall, cpu = time.perf_counter(), time.process_time()
    training = qs.fit(
        learner, train, steps=args.steps, tasks_per_step=args.tasks_per_step,
        optimiser=adam(args.rate), schedule=cosine, seed=args.seed, log_every=100,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluations = [_evaluated(learner, data.test, ways, args) for ways in tested_ways]
    result = {
        "learner": args.learner, "norm": args.norm, "settings": vars(args) | {"root": None},
        "train_wall_minutes": round(wall / 60, 1), "train_cpu_minutes": round(cpu / 60, 1),
        "engine": str(training.plan), "commit": commit(), "torch": torch.__version__,
        "published": PUBLISHED[args.learner], "evaluations": evaluations,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"omniglot_{args.learner}_{args.norm}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{wall / 60:.1f} minutes ({cpu / 60:.1f} of CPU time); written to {target}")


def _setting(args: argparse.Namespace, data: Any) -> tuple[qs.Learner, Episodes, tuple[int, ...]]:
    if args.learner == "prototypical":
        learner: qs.Learner = qs.Prototypical(qs.backbones.Conv4(norm=args.norm))
        return learner, qs.episodes(data.train, ways=20, shots=1, queries=5), (5, 20)
    net = qs.backbones.Conv4(norm=args.norm, outputs=5)
    learner = qs.MAML(net, steps=args.inner_steps, rate=args.inner_rate)
    return learner, qs.episodes(data.train, ways=5, shots=1, queries=3), (5,)


def _evaluated(
    learner: qs.Learner, split: qs.Classes, ways: int, args: argparse.Namespace
) -> dict[str, Any]:
    source = qs.episodes(split, ways=ways, shots=1, queries=15 if ways == 5 else 5)
    evaluation = qs.evaluate(learner, source, tasks=args.test_tasks)
    print(f"{args.learner}, norm={args.norm}, {ways}-way 1-shot: {evaluation}", flush=True)
    about = evaluation.to_json()
    del about["scores"]
    return {"ways": ways, "shots": 1, **about}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("learner", choices=sorted(PUBLISHED))
    parser.add_argument("--norm", default="group")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--tasks-per-step", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--inner-steps", type=int, default=1)
    parser.add_argument("--inner-rate", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    return parser.parse_args()


if __name__ == "__main__":
    main()
