"""What MANN's external memory gives over the same LSTM without it, on glyphs.

    python benchmarks/memory_against_lstm.py            # three seeds of each, writes JSON
    python benchmarks/memory_against_lstm.py --table    # its figures as a table

Both have the same controller (200 units), inputs, training tasks, order of rows, optimiser and test
tasks; MANN has the memory besides. The inputs are features of a Conv4-16 that was trained as a
Prototypical network on the training classes, and is frozen: so the difference is that of memory,
not of how well a network can be trained through it. Training is on 5-way 1-shot tasks of 2 queries
per class, 15 rows; tests are of 1 and of 5 shots. The LSTM is cheaper, so it is also trained on
twice as many tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conformal import embedded, trained
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "memory_against_lstm.json"
WAYS, QUERIES = 5, 2
KINDS: dict[str, tuple[Callable[[nn.Module], qs.Learner], int]] = {
    "MANN": (lambda net: qs.MANN(net, WAYS), 1),
    "LSTM": (lambda net: qs.LSTM(net, WAYS), 1),
    "LSTM, twice the tasks": (lambda net: qs.LSTM(net, WAYS), 2),
}
"""By name: how the learner is made, and how many times as many tasks it is trained on."""


class Features(nn.Module):
    """Inputs that are features already: (n, features) -> the same."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` as they are."""
        return inputs


def main() -> None:
    args = _arguments()
    if not args.table:
        _measure(args)
    print(markdown_table(table(json.loads(args.out.read_text())["trainings"])))


def _measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    data = qs.datasets.load("glyphs", root=args.root)
    prototypical = trained(data.train, args.channels, args.backbone_steps)
    splits = {name: embedded(prototypical, part) for name, part in
              (("train", data.train), ("test", data.test))}  # fmt: skip
    found = _done(args)
    for seed in range(args.seeds):
        for name in args.only or KINDS:
            if any((each["learner"], each["seed"]) == (name, seed) for each in found):
                continue
            found.append(_training(name, splits, seed, args))
            about = {
                "network": f"Conv4-{args.channels}", "backbone_steps": args.backbone_steps,
                "ways": WAYS, "train_shots": 1,
                "train_queries": QUERIES, "tasks_per_step": args.tasks_per_step, "rate": args.rate,
                "schedule": "cosine", "test_seed": 0, "test_queries": 15, "threads": 1,
                "commit": commit(), "torch": torch.__version__, "trainings": found,
            }  # fmt: skip
            write_atomically(args.out, (json.dumps(about, indent=1) + "\n").encode())


def _training(
    name: str, splits: dict[str, qs.LabelledRows], seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    make, times = KINDS[name]
    torch.manual_seed(seed)
    learner = make(Features(splits["train"].inputs.shape[1]))
    train = qs.episodes(splits["train"], WAYS, 1, QUERIES, shuffled=True)
    steps, began = times * args.steps, time.process_time()
    qs.fit(
        learner, train, steps=steps, tasks_per_step=args.tasks_per_step, seed=seed,
        optimiser=adam(args.rate), schedule=cosine, log_every=200, progress=False,
    )  # fmt: skip
    spent = time.process_time() - began
    tests = []
    for shots in (1, 5):
        source = qs.episodes(splits["test"], WAYS, shots, 15, shuffled=True)
        evaluation = qs.evaluate(learner, source, args.test_tasks, baselines=False)
        print(f"{name}, seed {seed}, {shots} shots, {spent:.0f} s: {evaluation}", flush=True)
        tests.append({
            "shots": shots, "mean": evaluation.mean, "half_width": evaluation.half_width,
            "protocol": evaluation.protocol, "fingerprint": evaluation.fingerprint,
            "scores": [round(score, 6) for score in evaluation.scores.tolist()],
        })  # fmt: skip
    return {
        "learner": name, "seed": seed, "tasks": steps * args.tasks_per_step,
        "cpu_seconds": round(spent, 1), "tests": tests,
    }  # fmt: skip


def _done(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The trainings that the result file has already, so that a stopped script goes on."""
    if not args.out.exists():
        return []
    done: list[dict[str, Any]] = json.loads(args.out.read_text())["trainings"]
    once = args.steps * args.tasks_per_step
    if any(each["tasks"] != once * KINDS[each["learner"]][1] for each in done):
        raise ValueError(f"{args.out}: has other numbers of training tasks. Give another --out.")
    return done


def table(trainings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each learner and number of shots; differences are MANN's score less the row's.

    "These tasks": over tasks, of scores averaged over trainings. "Other trainings": over the means
    of the trainings (Student's t).
    """
    rows = []
    for shots in (1, 5):
        scores = {name: _scores(trainings, name, shots) for name in KINDS}
        for name, of_row in scores.items():
            own = [training for training in trainings if training["learner"] == name]
            if not own:
                continue
            row = {
                "shots": shots, "learner": name,
                "tasks": f"{own[0]['tasks']:,}",
                "CPU s": f"{sum(t['cpu_seconds'] for t in own) / len(own):.0f}",
                "accuracy": _figure(of_row.mean(0)),
                "over trainings": _figure(of_row.mean(1)),
            }  # fmt: skip
            mann = scores["MANN"]
            if name != "MANN" and len(mann):
                n = min(len(mann), len(of_row))
                gain = mann[:n] - of_row[:n]
                row["memory gives"] = _figure(gain.mean(0))
                row["memory gives, over trainings"] = _figure(gain.mean(1))
            rows.append({**row, "memory gives": row.get("memory gives", "–"),
                         "memory gives, over trainings":
                         row.get("memory gives, over trainings", "–")})  # fmt: skip
    return rows


def _scores(trainings: list[dict[str, Any]], name: str, shots: int) -> torch.Tensor:
    """(trainings, tasks)."""
    found = [
        test["scores"]
        for training in trainings
        if training["learner"] == name
        for test in training["tests"]
        if test["shots"] == shots
    ]
    return torch.tensor(found, dtype=torch.float64)


def _figure(values: torch.Tensor) -> str:
    width = 100 * half_width(values) if len(values) > 2 else float("inf")
    told = f"± {width:.1f}" if width < float("inf") else "(± not known)"
    return f"{100 * float(values.mean()):.1f} {told}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the results so far")
    parser.add_argument("--only", nargs="*", choices=list(KINDS), help="these learners")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1250, help="of the one on fewest tasks")
    parser.add_argument("--tasks-per-step", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--backbone-steps", type=int, default=150)
    parser.add_argument("--test-tasks", type=int, default=300)
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
