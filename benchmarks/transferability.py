"""How well scores of transferability rank pretrained networks.

    published  the weighted Kendall τ of four scores with the accuracy after fine-tuning, recomputed
               from the published table of ten ImageNet networks on CIFAR-10 (and on Aircraft). The
               features themselves are not here, so this checks the agreement, not the scores.
    measured   six sets of features on four data sets: each score of 10 rows a class beside the
               5-way 5-shot accuracy of a linear probe on other rows of the same classes

    python benchmarks/transferability.py published measured --root ../shared/data

Source of the table (facts): thuml/Transfer-Learning-Library, examples/model_selection/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from figures import as_json
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.transferability import features_of, weighted_tau

RESULTS = Path(__file__).parent / "results" / "transferability.json"
MODELS = (
    "GoogleNet", "Inception V3", "ResNet50", "ResNet101", "ResNet152", "DenseNet121", "DenseNet169",
    "DenseNet201", "MobileNet V2", "MNasNet",
)  # fmt: skip
PUBLISHED = {
    "CIFAR-10": {
        "accuracy": (96.2, 97.5, 96.8, 97.7, 97.9, 97.2, 97.4, 97.4, 95.7, 96.8),
        "H-score": (5.911, 6.363, 6.567, 6.901, 6.945, 6.210, 6.547, 6.706, 5.928, 6.018),
        "LEEP": (-1.385, -1.259, -1.010, -0.829, -0.838, -1.035, -0.934, -0.888, -1.100, -1.066),
        "LogME": (0.293, 0.349, 0.388, 0.463, 0.469, 0.302, 0.343, 0.369, 0.291, 0.304),
        "NCE": (-1.139, -1.060, -1.007, -0.838, -0.851, -1.006, -0.946, -0.866, -1.089, -1.086),
    },
    "Aircraft": {
        "accuracy": (82.7, 88.8, 86.6, 85.6, 85.3, 85.4, 84.5, 84.6, 82.8, 72.8),
        "H-score": (28.37, 43.89, 46.23, 46.13, 46.25, 31.53, 41.81, 46.01, 34.43, 35.28),
        "LEEP": (-4.310, -4.202, -4.215, -4.230, -4.230, -4.228, -4.245, -4.206, -4.198, -4.192),
        "LogME": (0.934, 0.953, 0.946, 0.948, 0.950, 0.938, 0.943, 0.942, 0.941, 0.948),
        "NCE": (-4.248, -4.170, -4.201, -4.222, -4.229, -4.215, -4.270, -4.189, -4.208, -4.195),
    },
}
STATED = {
    "CIFAR-10": {"H-score": 0.800, "LEEP": 0.638, "LogME": 0.785, "NCE": 0.714},
    "Aircraft": {"H-score": 0.664, "LEEP": -0.264, "LogME": 0.595, "NCE": 0.002},
}
"""The weighted τ that the source states."""

SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "nearest neighbour": qs.transfer_scores.nearest_neighbours,
    "LogME": qs.transfer_scores.log_me,
    "H-score": qs.transfer_scores.h_score,
    "shrunk H-score": qs.transfer_scores.shrunk_h_score,
    "GBC": qs.transfer_scores.bhattacharyya,
}
CLASSES, SCORED, SIDE, SEED = 10, 10, 64, 0
"""Classes of a target; labelled rows of each that the scores read; side of all pictures."""


def published() -> dict[str, Any]:
    """For each data set and score, τ recomputed and as stated."""
    found: dict[str, Any] = {}
    for data, table in PUBLISHED.items():
        accuracy = table["accuracy"]
        found[data] = {
            score: {"tau": weighted_tau(values, accuracy), "stated": STATED[data][score]}
            for score, values in table.items()
            if score != "accuracy"
        }
    return found


class Shrunk(nn.Module):
    """Grey pictures of 28 pixels for a network that was made for them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, side, side) in [0, 1] -> what the network gives."""
        grey = pictures.mean(1, keepdim=True)
        small: Tensor = self.net(F.interpolate(grey, size=28, mode="area"))
        return small


def candidates(steps: int) -> dict[str, nn.Module]:
    """Features by name: none learnt, learnt on printed characters, and on ImageNet."""
    torch.manual_seed(SEED)
    random = qs.backbones.Conv4(image_size=28)
    trained = qs.backbones.Conv4(image_size=28)
    glyphs = qs.datasets.load("glyphs")
    tasks = qs.episodes(glyphs.train, ways=20, shots=1, queries=5)
    qs.fit(qs.Prototypical(trained), tasks, steps=steps, tasks_per_step=1)
    return {
        "pixels": Shrunk(nn.Flatten()),
        "Conv4, random": Shrunk(random),
        "Conv4, glyphs": Shrunk(trained),
        "Lite0, 64 pixels": qs.pretrained("efficientnet-lite0", size=64),
        "Lite0, 128 pixels": qs.pretrained("efficientnet-lite0", size=128),
        "Lite0, inverted grey": Inverted(qs.pretrained("efficientnet-lite0", size=64)),
    }


class Inverted(nn.Module):
    """A network that is given pictures in inverted grey, unlike those it was trained on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, side, side) in [0, 1] -> what the network gives."""
        grey = 1 - pictures.mean(1, keepdim=True).expand_as(pictures)
        inverted: Tensor = self.net(grey)
        return inverted


def targets(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Pictures (n, 3, side, side) and class ids (n,), 20 of each of 10 classes, by data set."""
    found = {}
    rows = {
        "Caltech-101": qs.datasets.load("caltech101", root, size=SIDE).test,
        "Omniglot": qs.datasets.load("omniglot", root, size=SIDE).test,
        "glyphs": qs.datasets.load("glyphs").test,
    }
    generator = torch.Generator().manual_seed(SEED)
    for name, classes in rows.items():
        tasks = qs.episodes(classes, ways=CLASSES, shots=SCORED, queries=10)
        task = tasks(generator)
        pictures = torch.cat([task.support.inputs, task.query.inputs])
        ids = torch.cat([task.support.targets, task.query.targets])
        found[name] = _as_colour(pictures), ids
    images = gzip.decompress((root / "fashion_mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((root / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    ids = torch.frombuffer(bytearray(labels[8:]), dtype=torch.uint8).long()
    x = torch.frombuffer(bytearray(images[16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28) / 255
    places = torch.cat([(ids == k).nonzero().flatten()[:20].reshape(2, 10) for k in range(10)], 1)
    found["Fashion-MNIST"] = _as_colour(x[places.flatten()]), ids[places.flatten()]
    return found


def _as_colour(pictures: Tensor) -> Tensor:
    if pictures.dtype == torch.uint8:
        pictures = pictures / 255
    large = F.interpolate(pictures, size=SIDE, mode="bilinear", antialias=True)
    return large.expand(-1, 3, -1, -1).contiguous()


def accuracy(features: Tensor, ids: Tensor, tasks: int) -> qs.Evaluation:
    """5-way 5-shot tasks of a linear probe on features of equal mean size."""
    scaled = features / features.std()
    rows = qs.LabelledRows.from_labels(scaled, ids.tolist())
    source = qs.episodes(rows, ways=5, shots=5, queries=5)
    learner = qs.LinearProbe(nn.Identity())
    return qs.evaluate(learner, source, tasks=tasks, seed=SEED, baselines=False)


def measured(root: Path, steps: int, tasks: int) -> dict[str, Any]:
    """For each data set, the scores and the accuracy of each candidate, and their τ."""
    nets, found = candidates(steps), {}
    for data, (pictures, ids) in targets(root).items():
        half = torch.arange(len(ids)) < len(ids) // 2
        table: dict[str, dict[str, Any]] = {}
        for name, net in nets.items():
            features = features_of(net, pictures, name)
            result = accuracy(features[~half], ids[~half], tasks)
            of_tasks = [round(score, 6) for score in result.scores.tolist()]
            table[name] = {"accuracy": result.mean, "half_width": result.main.half_width,
                           "scores": of_tasks}  # fmt: skip
            for score, of in SCORES.items():
                table[name][score] = of(features[half], ids[half])
        real = [row["accuracy"] for row in table.values()]
        taus = {s: weighted_tau([row[s] for row in table.values()], real) for s in SCORES}
        best = max(table, key=lambda name: table[name]["accuracy"])
        lost = {
            score: table[best]["accuracy"]
            - max(table.values(), key=lambda row, s=score: row[s])["accuracy"]
            for score in SCORES
        }
        found[data] = {"table": table, "tau": taus, "lost_by_the_first": lost}
        print(data, {n: round(r["accuracy"], 3) for n, r in table.items()}, flush=True)
        print("  τ", {s: round(v, 2) for s, v in taus.items()}, flush=True)
        print("  lost", {s: round(v, 3) for s, v in lost.items()}, flush=True)
    return found


def main() -> None:
    """The parts named on the command line; results of the others are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("published", "measured"))
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    start = time.process_time()
    if "published" in options.parts:
        found["published"] = published()
        for data, scores in found["published"].items():
            print(data, {s: (round(of["tau"], 3), of["stated"]) for s, of in scores.items()})
    if "measured" in options.parts:
        found["measured"] = {
            "data": measured(options.root, options.steps, options.tasks),
            "steps": options.steps, "tasks": options.tasks, "seed": SEED,
            "cpu_seconds": time.process_time() - start,
        }  # fmt: skip
    write_atomically(options.out, as_json(found))


if __name__ == "__main__":
    main()
