"""Multi-task training, meta-learning over named tasks, and one after the other, on School.

Each of 139 schools is a task: the exam scores of its pupils. Twenty schools are held out; of the
others, a quarter of the pupils are for the test. All networks share one trunk of 64 units. *Known*
schools are scored on these pupils, *new* ones on those that are not among their ten labelled ones.
A row with two trainings has half of the steps in each, with the same trunk.

    score = 1 - squared errors / squared differences from the mean, over all test pupils

    python benchmarks/multitask_and_meta.py --root DATA
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width

RESULTS = Path(__file__).parent / "results" / "multitask_and_meta.json"
HIDDEN, STEPS, TASKS_PER_STEP, ROWS, LABELLED, HELD_OUT = 64, 1000, 8, 10, 10, 20
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Of ridge regression, on a trunk and on the inputs themselves. That for known schools is chosen on
their validation pupils; that for new ones too, from ten training pupils of each known school."""

Tasks = qs.tasks.NamedTasks


class Data(NamedTuple):
    """Tasks of one seed: known schools in three parts of pupils, and new ones in two."""

    train: Tasks
    few: Tasks  # the first training pupils, as many as a new school has
    validation: Tasks
    test: Tasks
    new: Tasks
    new_test: Tasks

    @property
    def columns(self) -> int:
        """The number of columns of a pupil."""
        return int(next(iter(self.train.values())).inputs.shape[1])


def data_of(schools: Tasks, seed: int) -> Data:
    """Every column has mean 0 and variance 1 over the known training pupils of all schools."""
    known, new = schools.split_tasks(HELD_OUT, seed)
    rest, test = known.split_rows(0.75, seed)
    train, validation = rest.split_rows(0.8, seed)
    x, y = (torch.cat([getattr(r, part) for r in train.values()]) for part in ("inputs", "targets"))

    def like_training(values: Tensor, every: Tensor) -> Tensor:
        return (values - every.mean(0)) / every.std(0).clamp_min(1e-6)

    def scaled(tasks: Tasks, first: int = 0, last: int | None = None) -> Tasks:
        return qs.tasks.domains({
            name: (
                like_training(rows.inputs[first:last], x),
                like_training(rows.targets[first:last], y), qs.regression(),
            )
            for name, rows in tasks.items()
        })  # fmt: skip

    return Data(
        scaled(train), scaled(train, 0, LABELLED), scaled(validation), scaled(test),
        scaled(new, 0, LABELLED), scaled(new, LABELLED),
    )  # fmt: skip


def explained(learner: qs.Learner, support: Tasks, test: Tasks) -> float:
    """The explained variance of all test pupils, each school adapted to its support rows."""
    errors, targets = [], []
    with torch.no_grad():
        for name, rows in test.items():
            predictor = learner(support[name], support.specs[name])
            errors.append(predictor(rows.inputs) - rows.targets)
            targets.append(rows.targets)
    y = torch.cat(targets)
    return float(1 - torch.cat(errors).square().sum() / (y - y.mean()).square().sum())


def ridge(backbone: nn.Module, data: Data) -> dict[str, float]:
    """A ridge head for each school on what ``backbone`` gives."""

    def best(support: Tasks) -> qs.Learner:
        tried = [qs.LinearProbe(backbone, l2=l2).eval() for l2 in PENALTIES]
        return max(tried, key=lambda learner: explained(learner, support, data.validation))

    return {
        "known": explained(best(data.train), data.train, data.test),
        "new": explained(best(data.few), data.new, data.new_test),
    }


def fit(learner: qs.Learner, data: Data, steps: int, seed: int) -> None:
    """Train on batches of pupils, each school equally often."""
    source = data.train.batches(rows=ROWS, support=ROWS, temperature=float("inf"))
    qs.fit(learner, source, steps, TASKS_PER_STEP, seed=seed, clip=10.0, progress=False)


def trained(order: tuple[str, ...], data: Data, steps: int, seed: int) -> dict[str, Any]:
    """Train in this order, and score the last learner on known and new schools."""
    torch.manual_seed(seed)
    trunk = qs.backbones.MLP(data.columns, (HIDDEN,))
    multi = qs.HardSharing(trunk, data.train.outputs)
    for kind in order:
        learner = multi if kind == "multi-task" else gradient_learner(kind, trunk, data)
        fit(learner, data, max(steps // len(order), 1), seed)
    if order[-1] == "multi-task":
        # A new school adapts as HardSharing says: by a ridge head on the trunk.
        return ridge(trunk, data) | {"known": explained(learner, data.train, data.test)}
    return {
        "known": explained(learner, data.train, data.test),
        "new": explained(learner, data.new, data.new_test),
    }


def gradient_learner(kind: str, trunk: nn.Module, data: Data) -> qs.Learner:
    """MAML or Reptile over the trunk and a head: one start for all schools, or one for each."""
    network = qs.backbones.WithHead(trunk, outputs=1)
    tasks = data.train.outputs if "named" in kind else {}
    if "Reptile" in kind:
        sgd = qs.MAML(network).update
        return qs.NamedHeads(qs.Reptile(network, 3, 0.02, sgd, batch=ROWS, test_steps=5), tasks)
    return qs.NamedHeads(qs.MAML(network, steps=3, rate=0.02), tasks)


ORDERS = {
    "multi-task": ("multi-task",),
    "MAML": ("MAML",),
    "MAML, named heads": ("MAML, named heads",),
    "Reptile, named heads": ("Reptile, named heads",),
    "multi-task, then MAML, named heads": ("multi-task", "MAML, named heads"),
    "MAML, named heads, then multi-task": ("MAML, named heads", "multi-task"),
}


def results_of(name: str, data: Data, steps: int, seed: int) -> dict[str, Any]:
    """What one row of the table reaches on the data of one seed."""
    start = time.process_time()
    if name == "single ridge":
        found = ridge(qs.backbones.Features(data.columns), data)
    else:
        found = trained(ORDERS[name], data, steps, seed)
    return {n: round(value, 4) for n, value in found.items()} | {
        "cpu_seconds": round(time.process_time() - start, 1)
    }


def table(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds with 95% intervals, and the gain over single ridge, paired."""
    rows: dict[str, Any] = {}
    for name, of in found.items():
        rows[name] = {}
        for part in ("known", "new"):
            values = torch.tensor([each[part] for each in of.values()])
            gains = torch.tensor([of[s][part] - found["single ridge"][s][part] for s in of])
            rows[name][part] = {
                "mean": round(float(values.mean()), 4),
                "half_width": round(half_width(values), 4),
                "gain_over_single": round(float(gains.mean()), 4),
                "gain_half_width": round(half_width(gains), 4),
            }
    return rows


def main() -> None:
    """Every order on the same schools and pupils."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    schools = qs.datasets.load_named_tasks("school", options.root)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for seed in range(options.seeds):
        data = data_of(schools, seed)
        for name in ("single ridge", *ORDERS):
            result = results_of(name, data, options.steps, seed)
            found.setdefault(name, {})[str(seed)] = result
            print(seed, name, result, flush=True)
        settings = {
            "steps": options.steps, "tasks_per_step": TASKS_PER_STEP, "rows": ROWS,
            "labelled pupils of a new school": LABELLED, "new schools": HELD_OUT,
        }  # fmt: skip
        contents = {"settings": settings, "table": table(found), "scores": found}
        write_atomically(options.out, json.dumps(contents, indent=1).encode())
    for name, row in table(found).items():
        print(name, row)


if __name__ == "__main__":
    main()
