"""Segmentation from few pictures with masks: emoji of new classes, and white blood cells.

    python benchmarks/segmentation.py --root DATA [emoji cells ...]

EfficientNet-Lite0's maps at 128 pixels, frozen. Everything is scored on the same test tasks, each
task's score is kept. Learners have the settings of ``quickstudy run``; none was chosen by test
tasks. CPU seconds are of one thread: of training, with the features of its pictures, and of a task.

emoji   Where is this emoji, in a design that the support does not have, beside another emoji?
        Classes, photographs and pictures of the test are others than those of training. 3 queries.
cells   Background, cytoplasm or nucleus? Nothing is trained on cells before. 8 queries.

Trained learners are kept in ``--weights``; a second call scores what has no row yet.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from quickstudy.applications.segmentation import Segmentation
from quickstudy.base.atomic import replace_atomically
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "segmentation.json"
SHOTS = (1, 5)
SEED = 0
DATA = {"emoji": "emoji_masks", "cells": "cells"}
LEARNERS = {
    "emoji": (
        ("prototypical_segmentation", False), ("dense_matching", False),
        ("prototypical_segmentation", True), ("dense_matching", True),
    ),
    "cells": (
        ("prototypical_segmentation", False), ("dense_matching", False),
        ("pixel_head_from_scratch", False), ("pixel_head", False),
    ),
}  # fmt: skip
"""By data: the name of the learner, and whether it is trained over tasks."""

Row = dict[str, Any]


def rows(
    part: str, app: Segmentation, root: Path, tasks: int, weights: Path,
    steps: int | None, wanted: Callable[[str, int], bool],
) -> Iterator[Row]:  # fmt: skip
    """The rows of one part that are ``wanted``, by label and shots."""
    for name, trained in LEARNERS[part]:
        label = f"{name}, trained" if trained else name
        shots = [each for each in SHOTS if wanted(label, each)]
        if not shots:
            continue
        learner, seconds = made(app, name, trained, root, weights, steps)
        for each in shots:
            test = app.prepare(DATA[part], root, "pixel_head", each, SEED).test
            yield scored(part, label, each, learner, test, tasks) | {"training_s": seconds}


def made(
    app: Segmentation, name: str, trained: bool, root: Path, weights: Path, steps: int | None
) -> tuple[qs.Learner, float]:
    """The learner, and the CPU seconds that its training took."""
    if not trained:
        return app.learner(name, SEED, trained=False), 0.0
    file = weights / f"segmentation_{name}.safetensors"
    if file.exists():
        learner = qs.load(file)
        assert isinstance(learner, qs.Learner)
        return learner, float(file.with_suffix(".seconds").read_text())
    start = time.process_time()
    parts = app.prepare(DATA["emoji"], root, name, 1, SEED)
    assert parts.train is not None
    qs.fit(
        parts.learner, parts.train, steps or parts.steps, parts.tasks_per_step,
        optimiser=adam(parts.rate), schedule=cosine, clip=parts.clip,
    )  # fmt: skip
    seconds = time.process_time() - start
    qs.save(parts.learner, file)
    file.with_suffix(".seconds").write_text(str(round(seconds, 1)))
    return parts.learner, seconds


def scored(
    part: str, label: str, shots: int, learner: qs.Learner, test: qs.TaskSource, tasks: int
) -> Row:
    start = time.process_time()
    found = qs.evaluate(
        learner, test, tasks, seed=SEED, tasks_per_batch=min(4, tasks), baselines=False
    )
    seconds = (time.process_time() - start) / tasks
    result = found.rows[0]
    return {
        "part": part, "learner": label, "shots": shots, "score": result.score,
        "mean": result.mean, "half_width": result.half_width, "tasks": tasks, "seed": SEED,
        "task_s": round(seconds, 2), "commit": commit(),
        "scores": [round(float(v), 4) for v in result.values],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(DATA))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=60, help="of emoji; cells have a third")
    parser.add_argument("--steps", type=int, help="of training over tasks")
    parser.add_argument("--only", nargs="*", help="labels of learners")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=NUMBER of the application")
    parser.add_argument("--weights", type=Path, default=Path("segmentation_weights"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.weights.mkdir(exist_ok=True)
    app = Segmentation(**{name: int(value) for name, value in (s.split("=") for s in args.set)})
    kept: list[Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for part in args.parts:
        done = {(row["learner"], row["shots"]) for row in kept if row["part"] == part}

        def wanted(label: str, shots: int, done: set[tuple[str, int]] = done) -> bool:
            return (label, shots) not in done and (not args.only or label in args.only)

        tasks = args.tasks if part == "emoji" else max(2, args.tasks // 3)
        for row in rows(part, app, args.root, tasks, args.weights, args.steps, wanted):
            kept.append(row)
            text = json.dumps({"rows": kept}) + "\n"
            replace_atomically(args.out, lambda path, text=text: path.write_text(text))
            print({k: v for k, v in row.items() if k != "scores"}, flush=True)


if __name__ == "__main__":
    main()
