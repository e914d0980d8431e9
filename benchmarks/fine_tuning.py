"""Fine-tuning against a probe and the nearest mean, all from one small pretrained network.

    python benchmarks/fine_tuning.py                              # glyphs: some minutes
    python benchmarks/fine_tuning.py --fashion ../shared/data     # and clothes, unlike the glyphs

A Conv4 learns to tell all base classes of the glyphs apart, by cross entropy. Then every learner
gets the same tasks: unseen glyphs, near to what the network knows, and clothes (Fashion-MNIST),
which are far from it. Results, with the score of every task and the paired difference from the
probe, go to results/fine_tuning.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.starting_heads import zero_head

RESULTS = Path(__file__).parent / "results" / "fine_tuning.json"
SEED = 20

LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "nearest mean": qs.Prototypical,
    "probe (logistic)": lambda net: qs.LinearProbe(net, logistic),
    "head alone, from the probe": lambda net: qs.FineTune(net, "head"),
    "last block, from the probe": lambda net: qs.FineTune(net, "last:1"),
    "all, from the probe (LP-FT)": lambda net: qs.FineTune(net),
    "all, from a head of zeros": lambda net: qs.FineTune(net, head=zero_head, steps=100),
    "LP-FT, L2-SP": lambda net: qs.FineTune(net, towards_start=0.1),
    "LP-FT, rate halved by layer": lambda net: qs.FineTune(net, layer_decay=0.5),
    "LP-FT, gradual unfreezing": lambda net: qs.FineTune(net, unfreeze_every=4),
    "LP-FT, rate and steps chosen": lambda net: qs.FineTune(
        net, rate=(1e-3, 1e-4, 3e-3), steps=(20, 0, 10, 40), folds=3
    ),
    "LoRA of rank 4": lambda net: qs.LoRA(net, rank=4),
}


def pretrained(rows: qs.LabelledRows, epochs: float, channels: int) -> nn.Module:
    """A Conv4 trained to tell all classes apart, by plain minibatches."""
    torch.manual_seed(SEED)
    backbone = qs.backbones.Conv4(channels)
    network = qs.backbones.WithHead(backbone, len(rows))
    labels = torch.repeat_interleave(torch.arange(len(rows)), rows.counts)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    steps = max(1, int(epochs * len(labels) / 128))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
    for order in batches(len(labels), steps):
        loss = F.cross_entropy(network(rows.inputs[order].float() / 255), labels[order])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return backbone.eval()


def batches(rows: int, steps: int) -> Iterator[torch.Tensor]:
    """Indices of 128 rows each, every row once before any comes again."""
    generator, order = torch.Generator().manual_seed(SEED), torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < 128:
            order = torch.cat([order, torch.randperm(rows, generator=generator)])
        yield order[:128]
        order = order[128:]


def fashion(root: Path) -> qs.LabelledRows:
    """The 10,000 pictures of clothes of Fashion-MNIST's test part, 1,000 of each of 10 classes."""
    folder = root / "fashion_mnist"
    pixels, ids = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8)
        for name in ("images-idx3", "labels-idx1")
    )
    images = torch.from_numpy(pixels[16:].copy()).reshape(-1, 1, 28, 28)
    return qs.LabelledRows.from_labels(images, ids[8:].tolist())


def settings(glyphs: qs.LabelledRows, root: Path | None) -> dict[str, Any]:
    """The sources of tasks by name."""
    sources = {
        "unseen glyphs, 5-way 5-shot": qs.episodes(glyphs, ways=5, shots=5, queries=5),
        "unseen glyphs, 5-way 15-shot": qs.episodes(glyphs, ways=5, shots=15, queries=5),
    }
    if root is not None:
        clothes = fashion(root)
        sources |= {
            f"clothes, 5-way {shots}-shot": qs.episodes(clothes, ways=5, shots=shots, queries=15)
            for shots in (5, 20)
        }
    return sources


def measured(
    backbone: nn.Module, source: Any, tasks: int, chosen: list[str]
) -> dict[str, dict[str, Any]]:
    """Each learner's scores on the same tasks, and by how much they exceed the probe's."""
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        learner = LEARNERS[name](backbone).eval()
        start = time.process_time()
        result = qs.evaluate(learner, source, tasks=tasks, seed=SEED, baselines=False)
        seconds = (time.process_time() - start) / tasks
        scores = result.scores.double()
        found[name] = {
            "mean": result.mean, "half_width": result.half_width, "cpu_seconds_per_task": seconds,
            "scores": scores.tolist(),
        }  # fmt: skip
        line = f"  {name:32} {100 * result.mean:.1f} ± {100 * result.half_width:.1f}"
        if "probe (logistic)" in found:
            gains = scores - torch.tensor(found["probe (logistic)"]["scores"], dtype=scores.dtype)
            gain, width = float(gains.mean()), half_width(gains)
            found[name] |= {"gain_over_probe": gain, "gain_half_width": width}
            line += f"   {100 * gain:+.1f} ± {100 * width:.1f} over the probe"
        print(f"{line}   {1000 * seconds:.0f} CPU ms a task", flush=True)
    return found


def main() -> None:
    """Pretrain, adapt, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--only", default="", help="text in the names of the settings to run")
    parser.add_argument("--fashion", type=Path, help="the folder that has fashion_mnist/")
    parser.add_argument("--weights", type=Path, help="a file that keeps the pretrained weights")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    glyphs = qs.datasets.load("glyphs")
    start = time.process_time()
    if args.weights and args.weights.is_file():
        backbone: nn.Module = qs.backbones.Conv4(args.channels).eval()
        backbone.load_state_dict(torch.load(args.weights, weights_only=True))
    else:
        backbone = pretrained(glyphs.train, args.epochs, args.channels)
        if args.weights:
            torch.save(backbone.state_dict(), args.weights)
    seconds = time.process_time() - start
    print(f"pretrained on {len(glyphs.train)} classes in {seconds:.0f} CPU seconds", flush=True)
    results = {}
    for name, source in settings(glyphs.test, args.fashion).items():
        if args.only not in name:
            continue
        print(name, flush=True)
        results[name] = measured(backbone, source, args.tasks, args.learners)
    about = {
        "tasks": args.tasks, "seed": SEED, "epochs": args.epochs, "channels": args.channels,
        "base_classes": len(glyphs.train), "pretraining_cpu_seconds": seconds,
        "protocol": "inductive", "chance": 0.2, "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    write_atomically(args.out, json.dumps({**about, "results": results}).encode())


if __name__ == "__main__":
    main()
