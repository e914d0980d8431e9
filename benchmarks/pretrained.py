"""Time per picture of pretrained backbones, beside the package whose results they reproduce.

    python benchmarks/pretrained.py

CPU time of one thread, in milliseconds a picture, of this library's EfficientNet-Lite0 and of that
of efficientnet-lite-pytorch, on the same pictures in turns; the ratio is the median over rounds,
with its smallest and largest value, so that other work on the machine hits both. Then what a task
costs by pictures, and by features that were computed before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet

import quickstudy as qs
from quickstudy.backbones.pretrained.weights import package_file

RESULTS = Path(__file__).parent / "results" / "pretrained.json"
NAME = "efficientnet-lite0"
BATCHES = (1, 8)
SIZES = (128, 224)


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def in_turns(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """The milliseconds of each call in each round; the first round, which warms up, is left out."""
    found = [[cpu_ms(call) for call in calls] for _ in range(rounds + 1)][1:]
    return [list(times) for times in zip(*found, strict=True)]


def networks(size: int, batch: int, rounds: int) -> dict[str, object]:
    """Milliseconds a picture of ours and of the reference package's network."""
    ours = qs.pretrained(NAME, size=size)
    path = str(package_file(qs.backbones.pretrained.card(NAME)))
    other = EfficientNet.from_pretrained(NAME, weights_path=path, image_size=size).eval()
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    prepared = ours.prepared(images)
    with torch.no_grad():
        mine, theirs = in_turns([lambda: ours(images), lambda: other(prepared)], rounds)
    ratios = [t / m for m, t in zip(mine, theirs, strict=True)]
    return {
        "size": size,
        "batch": batch,
        "ours_ms": statistics.median(mine) / batch,
        "package_ms": statistics.median(theirs) / batch,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds": rounds,
    }


def tasks(size: int, rounds: int) -> dict[str, object]:
    """CPU milliseconds of a task of 5 ways, 1 shot and 5 queries: by pictures, and by features."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, size, size), dtype=torch.uint8, generator=generator)
    rows = qs.LabelledRows.from_labels(images, [i % 5 for i in range(40)])
    backbone = qs.pretrained(NAME, size=size)
    features = qs.featurise(rows, backbone)
    again = cpu_ms(lambda: qs.featurise(rows, backbone))  # all of them from the disk
    whole, small = (
        (qs.SimpleShot(net), qs.episodes(data, ways=5, shots=1, queries=5))
        for net, data in ((backbone, rows), (qs.backbones.Features(backbone.features), features))
    )

    def solve(learner: qs.Learner, source: qs.tasks.TaskSource) -> None:
        task = source(torch.Generator().manual_seed(1))
        learner(task.support, task.spec)(task.query.inputs)

    with torch.no_grad():
        pictures, kept = in_turns([lambda: solve(*whole), lambda: solve(*small)], rounds)
    return {
        "size": size,
        "by_pictures_ms": statistics.median(pictures),
        "by_features_ms": statistics.median(kept),
        "reading_40_kept_features_ms": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QUICKSTUDY_DATA"] = folder
        found = {
            "torch": torch.__version__,
            "networks": [networks(s, b, args.rounds) for s in args.sizes for b in BATCHES],
            "tasks": [tasks(size, args.rounds) for size in args.sizes],
        }
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    for line in (*found["networks"], *found["tasks"]):
        print(line)


if __name__ == "__main__":
    main()
