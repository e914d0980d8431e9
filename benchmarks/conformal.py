"""Coverage of prediction sets, stranger scores and temperature, on classes unseen in training.

    python benchmarks/conformal.py glyphs      # trains a CPU minute, measures, writes JSON
    python benchmarks/conformal.py omniglot
    python benchmarks/conformal.py --table     # all results as tables

One Prototypical network (Conv4-32, group norm) is trained on 20-way 1-shot tasks of the training
classes. Its features of all other rows are computed once, as no task changes them. Then:

coverage   of sets of coverage 90%, calibrated on 200 tasks and scored on 300 others, where both are
           of the same classes; of random halves of the test classes (10 times); and where those are
           of validation classes and these of test classes: other scripts. "Left out" is
           calibrated on the rows of each task's own support set.
strangers  AUROC of telling queries of a task's classes from queries of as many other test classes:
           by the largest logit, the nearest support row, and softmax.
ECE        of probabilities at temperature 1, and at the one from validation tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.metrics import roc_auc
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Task
from quickstudy.evaluation.calibration import error_at
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table
from quickstudy.tasks.examples import take
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "conformal"
COVERAGE, QUERIES, SEED = 0.9, 5, 0
SETTINGS = {"5-way 1-shot": (5, 1), "5-way 5-shot": (5, 5), "20-way 1-shot": (20, 1)}


def main() -> None:
    args = _arguments()
    if args.data:
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / f"{args.data}.json"
        write_atomically(target, (json.dumps(_measure(args), indent=1) + "\n").encode())
    found = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))}
    for rows in (coverage_table(found), stranger_table(found), temperature_table(found)):
        print(markdown_table(rows), end="\n\n")


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    data = qs.datasets.load(args.data, root=args.root)
    began = time.process_time()
    learner = trained(data.train, args.channels, args.steps)
    spent = time.process_time() - began
    pools = {name: embedded(learner, part) for name, part in
             (("validation", data.val), ("test", data.test))}  # fmt: skip
    found: dict[str, Any] = {
        "network": f"Conv4-{args.channels}", "steps": args.steps, "train_ways": 20, "seed": SEED,
        "cpu_seconds": round(spent, 1), "coverage": COVERAGE, "tasks": args.tasks,
        "calibration_tasks": args.calibration_tasks, "queries": QUERIES, "commit": commit(),
        "torch": torch.__version__, "classes": {name: len(pool) for name, pool in pools.items()},
    }  # fmt: skip
    for title, setting in SETTINGS.items():
        found[title] = measured(pools, *setting, args)
        print(title, {k: v for k, v in found[title].items() if k != "coverage"}, flush=True)
    return found


def trained(rows: qs.LabelledRows, channels: int, steps: int) -> qs.Prototypical:
    """A Prototypical network, trained on 20-way 1-shot tasks of these classes."""
    torch.manual_seed(SEED)
    learner = qs.Prototypical(qs.backbones.Conv4(channels))
    qs.fit(
        learner, qs.episodes(rows, 20, 1, QUERIES), steps=steps, optimiser=adam(1e-3),
        schedule=cosine, seed=SEED, progress=False,
    )  # fmt: skip
    return learner


def embedded(learner: qs.Prototypical, rows: qs.LabelledRows) -> qs.LabelledRows:
    """``rows`` with the features (rows, d) of the learner's backbone as their inputs."""
    with torch.no_grad():
        parts = [learner.backbone(part.float() / 255) for part in rows.inputs.split(256)]
    return qs.LabelledRows(torch.cat(parts), rows.counts, rows.names, rows.superclasses)


def measured(
    pools: dict[str, qs.LabelledRows], ways: int, shots: int, args: argparse.Namespace
) -> dict[str, Any]:
    """All figures for tasks of this many ways and shots."""
    learner = qs.Prototypical(nn.Flatten())  # of features

    def tasks(rows: qs.LabelledRows, shots: int = shots) -> Any:
        return qs.episodes(rows, ways, shots, QUERIES)

    def calibrated(rows: qs.LabelledRows, seed: int = 0) -> qs.Calibration:
        return qs.calibrate(learner, tasks(rows), args.calibration_tasks, seed=seed)

    def covered(rows: qs.LabelledRows, calibration: qs.Calibration, number: int) -> dict[str, Any]:
        return scored(learner, tasks(rows), calibration, number)

    test, validation = pools["test"], pools["validation"]
    of_validation = calibrated(validation)
    halves = []
    for seed in range(args.halves):
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed)).tolist()
        one, other = test.select(order[::2]), test.select(order[1::2])
        if min(len(one), len(other)) < ways:
            break
        halves.append(covered(other, calibrated(one, seed), max(2, args.tasks // 5))["covered"])
    coverage = {
        "same classes": covered(test, calibrated(test), args.tasks),
        "other scripts": covered(test, of_validation, args.tasks),
    }
    if shots > 1:
        coverage["left out"] = scored(learner, tasks(test), None, max(2, args.tasks // 5))
    return {
        "coverage": coverage, "halves": halves,
        "strangers": strangers(learner, test, ways, shots, args.tasks // 2),
        "temperature": temperature(learner, tasks, validation, test, of_validation, args),
    }  # fmt: skip


def scored(
    learner: qs.Learner, source: Any, calibration: qs.Calibration | None, number: int
) -> dict[str, Any]:
    """Of each task: shares of queries covered, right, in empty sets, answered; mean set size."""
    found: dict[str, list[float]] = {}
    for task_number in range(number):
        support, query, spec = draw(source, SEED, task_number, Stream.TEST)
        own = calibration or qs.calibrate_on_support(learner, support, spec)
        predictor = learner(support, spec)
        sets = qs.prediction_sets(predictor, query.inputs, COVERAGE, own)
        true = sets.contains.gather(1, query.targets[:, None]).squeeze(1)
        right = predictor(query.inputs).argmax(1) == query.targets
        for name, of_rows in (
            ("covered", true), ("size", sets.sizes), ("right", right), ("empty", sets.sizes == 0),
            ("answered", sets.only >= 0), ("answered right", sets.only == query.targets),
        ):  # fmt: skip
            found.setdefault(name, []).append(round(float(of_rows.float().mean()), 6))
    return found


def strangers(
    learner: qs.Learner, rows: qs.LabelledRows, ways: int, shots: int, number: int
) -> dict[str, list[float]]:
    """The AUROC of each task for each score; strangers are queries of ``ways`` other classes."""
    source, found = qs.episodes(rows, 2 * ways, shots, QUERIES), {}
    for task_number in range(number):
        support, query, _ = draw(source, SEED, task_number, Stream.TEST)
        known = take(support, support.targets < ways)
        predictor = learner(known, qs.classification(ways))
        strange = (query.targets >= ways).float()
        for name, score in {
            "largest logit": qs.stranger_score(predictor, query.inputs),
            "nearest support row": qs.stranger_score(predictor, query.inputs, known),
            "softmax": 1 - predictor(query.inputs).softmax(1).max(1).values,
        }.items():
            area = roc_auc(score, strange, torch.ones_like(score))
            found.setdefault(name, []).append(round(float(area), 6))
    return found


def temperature(
    learner: qs.Learner,
    tasks: Any,
    validation: qs.LabelledRows,
    test: qs.LabelledRows,
    calibration: qs.Calibration,
    args: argparse.Namespace,
) -> dict[str, float]:
    """The temperature from validation tasks, and ECE before and after on tasks it did not see."""
    found = {"temperature": calibration.temperature}
    for name, rows in (("validation", validation), ("test", test)):
        logits, targets = _logits(learner, tasks(rows), args.tasks)
        for when, value in (("before", 1.0), ("after", calibration.temperature)):
            found[f"{name} {when}"] = error_at(logits, targets, value)
    return found


def _logits(learner: qs.Learner, source: Any, number: int) -> tuple[Tensor, Tensor]:
    drawn: list[Task] = [draw(source, SEED, i, Stream.TEST) for i in range(number)]
    logits = [learner(task.support, task.spec)(task.query.inputs) for task in drawn]
    return torch.cat(logits), torch.cat([task.query.targets for task in drawn])


def coverage_table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each setting and each way to calibrate."""
    rows = []
    for data, result in found.items():
        for title in SETTINGS:
            about = {"data": data, "tasks": title}
            for calibrated, each in result[title]["coverage"].items():
                means = {name: _mean(values) for name, values in each.items()}
                right = means["answered right"] / max(means["answered"], 1e-9)
                rows.append({
                    **about, "calibrated on": calibrated, "coverage": _figure(each["covered"]),
                    "accuracy": _figure(each["right"]), "size": f"{means['size']:.2f}",
                    "empty": _percent(means["empty"]), "sure": _percent(means["answered"]),
                    "right of these": _percent(right),
                })  # fmt: skip
            means = [_mean(values) for values in result[title]["halves"]]
            if means:
                low, high = _percent(min(means)), _percent(max(means))
                rows.append({
                    **about, "calibrated on": f"the other half, {len(means)} times",
                    "coverage": f"{_percent(_mean(means))} ({low} to {high})",
                    **dict.fromkeys(("accuracy", "size", "empty", "sure", "right of these"), "–"),
                })  # fmt: skip
    return rows


def stranger_table(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"data": data, "tasks": title}
        | {name: _figure(areas) for name, areas in result[title]["strangers"].items()}
        for data, result in found.items()
        for title in SETTINGS
    ]


def temperature_table(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"data": data, "tasks": title}
        | {name: f"{value:.2f}" if name == "temperature" else f"{100 * value:.1f}"
           for name, value in result[title]["temperature"].items()}
        for data, result in found.items()
        for title in SETTINGS
    ]  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _figure(values: list[float]) -> str:
    width = half_width(torch.tensor(values, dtype=torch.float64))
    return f"{100 * _mean(values):.1f} ± {100 * width:.1f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", choices=("glyphs", "omniglot"))
    parser.add_argument("--table", action="store_true", help="print the results so far")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--calibration-tasks", type=int, default=200)
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    if not args.table and args.data is None:
        parser.error("name the data (glyphs, omniglot), or give --table")
    return args


if __name__ == "__main__":
    main()
