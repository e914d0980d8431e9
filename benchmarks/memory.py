"""Peak memory of MAML's five inner steps at 84x84: recorded, recomputed, and in first order.

    python benchmarks/memory.py

One task of 5-way 5-shot, 15 queries, Conv4-32; each meta-gradient in a separate process. The
result is the process's greatest resident size, less that before the task.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from contest.worker import memory_mib

import quickstudy as qs
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder
from quickstudy.objectives import query_loss

WAYS = {"recorded": Exact(), "recomputed": Exact(recompute=True), "first order": FirstOrder()}


def measure(mode: str) -> None:
    """Print the MiB that one meta-gradient takes, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = qs.backbones.Conv4(32, in_channels=3, image_size=84, outputs=5)
    learner = qs.MAML(net, steps=5, rate=0.01, meta_gradient=WAYS[mode])
    rows = [qs.examples(torch.rand(5 * n, 3, 84, 84), torch.arange(5 * n) % 5) for n in (5, 15)]
    before = memory_mib("VmRSS")
    query_loss(learner, qs.Task(*rows, qs.classification(5))).loss.backward()
    after = memory_mib("VmHWM")
    if before is None or after is None:
        raise SystemExit("memory.py: reads /proc/self/status, which only Linux has.")
    print(after - before)


def main() -> None:
    """Print one line for each meta-gradient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=list(WAYS), help="measure this one, in this process")
    way = parser.parse_args().way
    if way:
        measure(way)
        return
    for name in WAYS:
        command = [sys.executable, __file__, "--way", name]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{name:12} {int(result.stdout):6} MiB")


if __name__ == "__main__":
    main()
