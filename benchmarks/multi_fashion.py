"""Multi-Fashion: two garments on one picture, and every way to balance the two tasks.

The 10,000 test pictures of Fashion-MNIST are divided into training, validation and test pictures
*before* two of a part are overlaid: one at the upper left, one at the lower right of 36 x 36
pixels, brighter pixel wins, halved to 18 x 18. The tasks are the garment on the left and that on
the right. All learners have the same small network of two convolutions. Single tasks have one each;
the others share one under two heads, and differ only in how the two losses are combined. Every seed
has pictures, pairs and first weights of its own, the same for all learners.

    Δm = mean over tasks of (accuracy - accuracy of the single task) / accuracy of the single task

    python benchmarks/multi_fashion.py --root DATA
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.tasks.fixed import FixedTasks

RESULTS = Path(__file__).parent / "results" / "multi_fashion.json"
TASKS = ("left", "right")
TRAIN, VALIDATION = 7000, 1000  # pictures; the other 2,000 are for the test
PAIRS = {"train": 7000, "validation": 2000, "test": 4000}
EPOCHS, BATCH, RATE = 4, 64, 2e-3
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of the left task's loss that the tuned fixed weights choose from, on validation pairs."""


class LeNet(nn.Module):
    """Pictures (n, 1, 18, 18) -> features (n, 32): two convolutions and a linear layer."""

    features = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 12, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(12 * 9, self.features), nn.ReLU(),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of each picture."""
        features: Tensor = self.layers(pictures)
        return features


Part = dict[str, Tensor]
"""``pictures`` (n, 1, 18, 18) and the garments (n,) on the ``left`` and on the ``right``."""


def garments(root: Path) -> tuple[Tensor, Tensor]:
    """The pictures (10000, 28, 28) in [0, 1] and their classes (10000,)."""

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(root / "fashion_mnist" / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    pictures = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    classes = read("t10k-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(pictures / np.float32(255)), torch.from_numpy(classes.astype(np.int64))


def overlaid(left: Tensor, right: Tensor) -> Tensor:
    """Pictures (n, 1, 18, 18) of two pictures (n, 28, 28) each."""
    corner = F.pad(left, (0, 8, 0, 8)).maximum(F.pad(right, (8, 0, 8, 0)))
    return F.avg_pool2d(corner.unsqueeze(1), 2)


def parts(pictures: Tensor, classes: Tensor, seed: int, share: float = 1.0) -> dict[str, Part]:
    """Training, validation and test pairs; no picture is in two of them.

    ``share``  of the pairs of each part, for a trial.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=generator)
    ends = (0, TRAIN, TRAIN + VALIDATION, len(pictures))
    found = {}
    for (name, count), start, end in zip(PAIRS.items(), ends, ends[1:], strict=False):
        own, n = order[start:end], int(count * share)
        left, right = own[torch.randint(len(own), (2, n), generator=generator)]
        found[name] = {
            "pictures": overlaid(pictures[left], pictures[right]),
            "left": classes[left], "right": classes[right],
        }  # fmt: skip
    return found


def batches(train: Part, tasks: Sequence[str], epochs: int, seed: int) -> FixedTasks:
    """Every batch for each task in turn, so that a step has the same rows for all.

    Known tasks learn from support and query rows alike, so that each is half of a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(epochs):
        order = torch.randperm(len(train["pictures"]), generator=generator)
        for rows in order[: len(order) // BATCH * BATCH].view(-1, 2, BATCH // 2):
            for name in tasks:
                support, query = (qs.examples(train["pictures"][r], train[name][r]) for r in rows)
                made.append(qs.Task(support, query, qs.classification(10, name=name)))
    return qs.tasks.fixed(made)


def accuracies(learner: Any, tasks: Sequence[str], part: Part) -> dict[str, float]:
    """The share of garments that are right, by task."""
    found = {}
    with torch.no_grad():
        for name in tasks:
            spec = qs.classification(10, name=name)
            predicted = learner.predict({}, part["pictures"], spec).argmax(-1)
            found[name] = float((predicted == part[name]).double().mean())
    return found


def run(
    tasks: Sequence[str], combine: Any, data: dict[str, Part], epochs: int, seed: int
) -> dict[str, Any]:
    """Accuracies of a network shared by ``tasks`` after one training."""
    torch.manual_seed(seed)
    learner = qs.HardSharing(LeNet(), dict.fromkeys(tasks, 10))
    source = batches(data["train"], tasks, epochs, seed)
    steps = len(source) // len(tasks)
    start = time.process_time()
    qs.fit(
        learner, source, steps, tasks_per_step=len(tasks), optimiser=qs.optimisers.adam(RATE),
        combine=combine, seed=seed, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    learner.eval()
    return {
        "validation": accuracies(learner, tasks, data["validation"]),
        "test": accuracies(learner, tasks, data["test"]),
        "ms_per_step": round(1000 * seconds / steps, 2),
    }


SINGLE, TUNED = "single", "tuned fixed weights"


def methods() -> list[str]:
    """Single tasks, tuned fixed weights, and every balancer of the library that has no weights."""
    left_out = ("mean", "constant")  # which here are equal weights, and the tuned ones
    return [SINGLE, TUNED, *(name for name in qs.balancing.METHODS if name not in left_out)]


def balancer(name: str, steps_of_epoch: int) -> Any:
    """A new balancer of this name, as it is by default."""
    settings = {"epoch": steps_of_epoch} if name == "dwa" else {}
    return qs.balancing.named(name, **settings)


def results_of(name: str, data: dict[str, Part], epochs: int, seed: int) -> dict[str, Any]:
    """What one method reaches on the data of one seed."""
    if name == SINGLE:
        each = [run([task], qs.balancing.Equal(), data, epochs, seed) for task in TASKS]
        return {part: each[0][part] | each[1][part] for part in ("validation", "test")} | {
            "ms_per_step": round(sum(one["ms_per_step"] for one in each), 2)
        }
    if name == TUNED:
        tried = {}
        for share in SHARES:
            weights = {"left": 2 * share, "right": 2 * (1 - share)}
            tried[share] = run(TASKS, qs.balancing.Constant(weights), data, epochs, seed)
        best = max(SHARES, key=lambda share: sum(tried[share]["validation"].values()))
        return tried[best] | {"share of the left": best}
    epoch = len(data["train"]["pictures"]) // BATCH
    return run(TASKS, balancer(name, epoch), data, epochs, seed)


def gain(found: dict[str, float], alone: dict[str, float]) -> float:
    """Δm, in percent."""
    return 100 * sum((found[name] - alone[name]) / alone[name] for name in TASKS) / len(TASKS)


def table(scores: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds, with 95% intervals of Δm."""
    rows = {}
    for name, of_seeds in scores.items():
        rows[name] = {
            f"{task} accuracy": round(mean([each["test"][task] for each in of_seeds.values()]), 4)
            for task in TASKS
        }
        rows[name]["ms_per_step"] = round(mean([r["ms_per_step"] for r in of_seeds.values()]), 2)
        alone = {
            seed: scores["single"][seed] for seed in of_seeds if seed in scores.get(SINGLE, {})
        }
        gains = [gain(of_seeds[seed]["test"], alone[seed]["test"]) for seed in alone]
        if gains and name != SINGLE:
            rows[name] |= {
                "gain": round(mean(gains), 2),
                "half_width": round(half_width(torch.tensor(gains)), 2),
                "seeds": [round(value, 2) for value in gains],
            }
    return rows


def mean(values: list[float]) -> float:
    """The mean of a list."""
    return sum(values) / len(values)


def main() -> None:
    """All methods on the same data; one that has a result for a seed is left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs, for a trial")
    parser.add_argument("--methods", nargs="*", default=methods(), choices=methods())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures, classes = garments(options.root)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    scores = found.setdefault("scores", {})
    for seed in range(options.seeds):
        data = parts(pictures, classes, seed, options.share)
        for name in options.methods:
            if str(seed) in scores.get(name, {}):
                continue
            result = results_of(name, data, options.epochs, seed)
            scores.setdefault(name, {})[str(seed)] = result
            found["settings"] = {
                "training, validation and test pictures": [TRAIN, VALIDATION, 2000],
                "pairs": {part: len(data[part]["left"]) for part in PAIRS},
                "epochs": options.epochs, "batch": BATCH, "rate": RATE, "fixed shares": SHARES,
            }  # fmt: skip
            found["table"] = table(scores)
            write_atomically(options.out, json.dumps(found, indent=1).encode())
            print(seed, name, result["test"], result["ms_per_step"], flush=True)
    for name, row in found["table"].items():
        print(name, row)


if __name__ == "__main__":
    main()
