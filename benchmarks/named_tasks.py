"""Many named tasks in one training step: stacked heads against a loop over the tasks.

    python benchmarks/named_tasks.py            # both learners, about two minutes

139 tasks with a linear head each on a small trunk, 28 features: the size of the School data, with
numbers drawn at random, since only time is measured. A step is the loss and the gradient of one
batch of every task, and a step of Adam. Three sides take turns in one process, on one thread; the time
is CPU time, since other work may run beside them:

    stacked  what ``fit`` does: one gather of heads, one batched product
    looped   the engine's loop, one task after the other, on the same stacked parameters
    plain    a loop in ordinary PyTorch, with a module of its own for each task

Before any timing, their gradients are compared in float64. Results go to results/named_tasks.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from peers import machine
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import Prepared, prepare_tasks
from quickstudy.contract.check import doubled
from quickstudy.core import Task
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.objectives import objective_of
from quickstudy.reports.tables import markdown_table
from quickstudy.tasks.numbering import generator

RESULTS = Path(__file__).parent / "results" / "named_tasks.json"
FEATURES, HIDDEN = 28, 32
SIDES = ("stacked", "looped", "plain")


def drawn(tasks: int, rows: int) -> list[Task]:
    """One batch of each task: ``rows`` rows, half of them support."""
    g = generator(0)

    def part(n: int) -> qs.core.Examples:
        x = torch.randn(n, FEATURES, generator=g)
        return qs.examples(x, torch.randn(n, 1, generator=g))

    half = rows // 2
    return [
        Task(part(half), part(rows - half), qs.regression(name=f"task {i}")) for i in range(tasks)
    ]


LEARNERS: dict[str, Callable[[dict[str, int]], Any]] = {
    "HardSharing": lambda tasks: qs.HardSharing(qs.backbones.MLP(FEATURES, (HIDDEN,)), tasks),
    "SingleTask": lambda tasks: qs.SingleTask(qs.backbones.MLP(FEATURES, (HIDDEN,)), tasks),
}


class Plain(nn.Module):
    """Modules of their own for each task, with the weights of ``learner``."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        tasks, self.shared = len(learner.tasks), learner.heads is not None
        bodies = [copy.deepcopy(learner.backbone).requires_grad_() for _ in range(tasks)]
        if isinstance(learner, qs.HardSharing):
            bodies = bodies[:1]
        self.bodies = nn.ModuleList(bodies)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, 1) for _ in range(tasks))
        self.to(learner.heads.weight.dtype)
        with torch.no_grad():
            for place, head in enumerate(self.heads):
                head.weight.copy_(learner.heads.weight[place].mT)
                head.bias.copy_(learner.heads.bias[place])

    def forward(self, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The mean of the tasks' losses."""
        losses = []
        for place, (x, y) in enumerate(rows):
            body = self.bodies[min(place, len(self.bodies) - 1)]
            losses.append(F.mse_loss(self.heads[place](body(x)), y))
        return torch.stack(losses).mean()


def steps(learner: Any, tasks: list[Task]) -> dict[str, tuple[nn.Module, Callable[[], None]]]:
    """For each side its module, and a function that sets the gradient of one step."""
    modules: dict[str, nn.Module] = {
        "stacked": copy.deepcopy(learner), "looped": copy.deepcopy(learner),
        "plain": Plain(learner),
    }  # fmt: skip
    prepared = prepare_tasks(learner, tasks)
    rows = [
        (torch.cat([t.support.inputs, t.query.inputs]),
         torch.cat([t.support.targets, t.query.targets]))
        for t in tasks
    ]  # fmt: skip

    def ours(module: Any, step: list[Prepared], mapping: Mapping) -> None:
        accumulate(module, step, objective_of(module), Plan(mapping, "", len(tasks)))

    return {
        "stacked": (modules["stacked"], lambda: ours(modules["stacked"], prepared, Mapping.VMAP)),
        "looped": (modules["looped"], lambda: ours(modules["looped"], prepared, Mapping.LOOP)),
        "plain": (modules["plain"], lambda: modules["plain"](rows).backward()),
    }


def largest_difference(learner: Any, tasks: list[Task]) -> float:
    """The largest difference of two sides' gradients of the heads' weights, in float64."""
    found = []
    for side, (module, gradient) in steps(
        copy.deepcopy(learner).double(), list(map(doubled, tasks))
    ).items():
        gradient()
        heads: Any = module.heads
        found.append(
            torch.stack([head.weight.grad.mT for head in heads])
            if side == "plain" else heads.weight.grad
        )  # fmt: skip
    return max(float((each - found[0]).abs().max()) for each in found)


def timed(learner: Any, tasks: list[Task], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round's step of each side, in turns; the first round warms up."""
    sides = steps(learner, tasks)
    optimisers = {
        side: torch.optim.Adam([p for p in module.parameters() if p.requires_grad])
        for side, (module, _) in sides.items()
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds + 1):
        for side, (_, gradient) in sides.items():
            began = time.process_time()
            optimisers[side].zero_grad()
            gradient()
            optimisers[side].step()
            seconds[side].append(time.process_time() - began)
    return {side: each[1:] for side, each in seconds.items()}


def row(name: str, tasks: int, rows: int, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    learner = LEARNERS[name]({f"task {i}": 1 for i in range(tasks)})
    batch = drawn(tasks, rows)
    difference = largest_difference(learner, batch)
    if difference > 1e-12:
        raise SystemExit(f"{name}: gradients of the sides differ by {difference:.1e}")
    seconds = timed(learner, batch, rounds)
    found: dict[str, Any] = {"learner": name, "tasks": tasks, "rows of each": rows}
    found |= {f"{side}, ms": round(1e3 * median(seconds[side]), 2) for side in SIDES}
    for side in SIDES[1:]:
        ratios = [b / a for a, b in zip(seconds["stacked"], seconds[side], strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        found[f"{side} / stacked"] = f"{middle:.1f} ({low:.1f} to {high:.1f})"
    return found | {"gradients differ by": float(f"{difference:.1g}"), "rounds": rounds}


def main() -> None:
    """Measure both learners."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=139)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [row(name, args.tasks, args.rows, args.rounds) for name in LEARNERS]
    print(markdown_table(found))
    told = {"commit": commit(), **machine()}
    write_atomically(args.out, (json.dumps({"rows": found, **told}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
