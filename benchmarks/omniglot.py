"""Few-shot classification of Omniglot: every learner, the same tasks, network and CPU budget.

    python benchmarks/omniglot.py prototypical      # trains 10 CPU minutes, tests, writes JSON
    python benchmarks/omniglot.py maml --ways 20    # the column 20-way 1-shot
    python benchmarks/omniglot.py snail --shots 5   # the column 5-way 5-shot of a sequence learner
    python benchmarks/omniglot.py --table           # all results as one table

Protocol: the split of Vinyals et al. (1028/172/423 characters), rotations as new classes, 28x28,
Conv4-64, 1000 test tasks (or --test-tasks) with 15 queries per class (5 at 20 ways). No
augmentation beyond the rotations, no early stopping: the weights after the last step are tested.
The number of steps is what fits into the budget of CPU time on one thread, measured on the first
steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from budget import steps_within
from figures import as_json, figures
from omniglot_learners import ENTRIES, Entry

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table
from quickstudy.tasks.episodes import Episodes
from quickstudy.training.log import Training
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "omniglot"
COLUMNS = {(5, 1): "5-way 1-shot", (5, 5): "5-way 5-shot", (20, 1): "20-way 1-shot"}


def main() -> None:
    args = _arguments()
    if args.table:
        print(markdown_table(_table()))
    else:
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    entry: Entry = ENTRIES[args.learner]
    data = qs.datasets.load("omniglot", root=args.root, rotations=True)
    ways = entry.train_ways or args.ways
    network = qs.backbones.Conv4(norm=entry.norm, outputs=entry.outputs(ways))
    learner = entry.make(network, ways, args.shots)
    sequential = "support_order_is_irrelevant" in learner.exceptions
    train = qs.episodes(data.train, ways, args.shots, entry.queries, shuffled=sequential)
    steps = args.steps or steps_within(
        args.minutes, lambda n: _fit(copy.deepcopy(learner), train, n, entry, 0, trial=True)
    )
    wall, cpu = time.perf_counter(), time.process_time()
    training = _fit(learner, train, steps, entry, args.seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluations = [
        _evaluated(args.learner, learner, data.test, w, s, args.test_tasks)
        for w, s in _columns(entry, args)
    ]
    result = {
        "learner": args.learner, "trained": {"ways": ways, "shots": args.shots,
        "queries": entry.queries, "tasks_per_step": entry.tasks_per_step, "steps": steps,
        "rate": entry.rate, "seed": args.seed, "threads": args.threads,
        "wall_minutes": round(wall / 60, 1), "cpu_minutes": round(cpu / 60, 1),
        "engine": str(training.plan)},
        "network": "Conv4-64", "norm": entry.norm, "note": entry.note, "commit": commit(),
        "torch": torch.__version__, "evaluations": evaluations,
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    suffix = ("" if entry.train_ways else f"_{args.ways}way") + "_5shot" * (args.shots == 5)
    target = RESULTS / f"{args.learner}{suffix}.json"
    write_atomically(target, as_json(result))
    print(f"{wall / 60:.1f} minutes ({cpu / 60:.1f} of CPU time); written to {target}")


def _columns(entry: Entry, args: argparse.Namespace) -> list[tuple[int, int]]:
    """What this training is tested on."""
    if entry.own_shots:
        return [(args.ways, args.shots)]
    return [c for c in COLUMNS if entry.train_ways or c[0] == args.ways]


def _fit(
    learner: qs.Learner, train: Episodes, steps: int, entry: Entry, seed: int, trial: bool = False
) -> Training:
    return qs.fit(
        learner, train, steps=steps, tasks_per_step=entry.tasks_per_step,
        optimiser=entry.optimiser or adam(entry.rate), schedule=cosine, seed=seed, log_every=100,
        progress=not trial,
    )  # fmt: skip


def _evaluated(
    name: str, learner: qs.Learner, split: qs.LabelledRows, ways: int, shots: int, tasks: int
) -> dict[str, Any]:
    sequential = "support_order_is_irrelevant" in learner.exceptions
    queries = 15 if ways == 5 else 5
    source = qs.episodes(split, ways, shots, queries, shuffled=sequential)
    evaluation = qs.evaluate(learner, source, tasks=tasks)
    print(f"{name}, {ways}-way {shots}-shot: {evaluation}", flush=True)
    return {"ways": ways, "shots": shots, **figures(evaluation)}


def _table() -> list[dict[str, object]]:
    rows = []
    for name, entry in ENTRIES.items():
        found = [json.loads(p.read_text()) for p in sorted(RESULTS.glob(f"{name}*.json"))]
        results = [r for r in found if r["learner"] == name]
        results.sort(key=lambda r: (r["trained"]["ways"], r["trained"]["shots"]))
        if not results:
            continue
        cells = {
            (e["ways"], e["shots"]): f"{100 * e['mean']:.1f} ± {100 * e['half_width']:.1f}"
            for r in results
            for e in r["evaluations"]
        }
        rows.append(
            {"learner": entry.title + ("" if entry.norm == "group" else f", norm {entry.norm}"),
             "protocol": results[0]["evaluations"][0]["protocol"]}
            | {title: cells.get(column, "–") for column, title in COLUMNS.items()}
            | {"published": " / ".join("–" if p is None else f"{p:g}" for p in entry.published),
               "training tasks": " + ".join(_training_tasks(r["trained"]) for r in results),
               "test tasks": f"{results[0]['evaluations'][0]['tasks']:,}"}
        )  # fmt: skip
    return rows


def _training_tasks(trained: dict[str, Any]) -> str:
    return f"{trained['steps'] * trained['tasks_per_step']:,}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("learner", nargs="?", choices=list(ENTRIES))
    parser.add_argument("--table", action="store_true", help="print all results so far")
    parser.add_argument("--ways", type=int, default=5, choices=(5, 20), help="column to train for")
    parser.add_argument("--shots", type=int, default=1, choices=(1, 5), help="likewise")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of the training")
    parser.add_argument("--steps", type=int, default=None, help="instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    args = parser.parse_args()
    if not args.table and args.learner is None:
        parser.error(f"name a learner ({', '.join(ENTRIES)}), or give --table")
    if args.shots == 5 and not (ENTRIES[args.learner].own_shots and args.ways == 5):
        parser.error(f"{args.learner} has no 5-shot training at {args.ways} ways: leave --shots")
    return args


if __name__ == "__main__":
    main()
