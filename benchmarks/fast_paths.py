"""Each fast path alone: a training step with it and without it, in turns, on two cores.

    python benchmarks/fast_paths.py                       # all, about ten minutes
    python benchmarks/fast_paths.py task_axis kernels --rounds 21

Every line changes one thing of what ``fit`` does by default. Both sides run in separate processes,
take turns, and compute the meta-gradient that ``contest/oracle.py`` writes out in float64; those of
memory learners (``memory_learners.py``) share a process. Ratios are of medians, with the quartiles
of the rounds' own ratios. Results go to results/fast_paths.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import memory_learners
import torch
from contest.contenders import Contender
from contest.turns import contest
from contest.work import WORKLOADS
from peers import machine

from quickstudy.base.atomic import write_atomically
from quickstudy.compute.memory import keep_freed_memory
from quickstudy.compute.plan import Mapping
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "fast_paths.json"
Seconds = list[float]


class Line(NamedTuple):
    """A fast path on a workload, and the functions of ``contest/contenders`` of both sides."""

    path: str
    workload: str
    without: str
    with_it: str = "ours.one_worker"


LINES = (
    Line("task_axis, against vmap", "sinusoid_maml", "without.task_axis"),
    Line("vmap_grad, against a loop", "sinusoid_maml", "without.mapping", "without.task_axis"),
    Line("compile", "sinusoid_maml", "ours.one_worker", "ours.compiled"),
    Line("features, against a loop", "prototypical_28_5_ways", "without.mapping"),
    Line("features, against a loop", "mann_conv4", "loop", "features"),
    Line("features, against a loop", "snail_conv4", "loop", "features"),
    Line("vmap, against a loop", "mann", "loop", "vmap"),
    Line("vmap, against a loop", "snail_five_queries", "loop", "vmap"),
    Line("workers, against threads of torch", "maml_28_1_step", "ours.one_worker",
         "ours.two_workers"),
    Line("workers, against threads of torch", "fomaml_28_5_steps", "ours.one_worker",
         "ours.two_workers"),
    Line("kernels", "maml_28_5_steps", "without.kernels"),
    Line("kernels", "maml_84_5_steps", "without.kernels"),
    Line("channels_last", "maml_28_5_steps", "without.channels_last"),
    Line("channels_last", "prototypical_28_60_ways", "without.channels_last"),
    Line("keep_freed_memory", "maml_28_5_steps", "without.freed_memory"),
    Line("keep_freed_memory", "fomaml_84_5_steps", "without.freed_memory"),
)  # fmt: skip


def in_processes(line: Line, rounds: int, tasks: int) -> tuple[Seconds, Seconds]:
    """Seconds of each round's steps with the path and without it."""
    work = WORKLOADS[line.workload]
    if work.image:
        work = replace(work, tasks=min(work.tasks, tasks))
    sides = [Contender("with", line.with_it), Contender("without", line.without)]
    rows = contest(work, sides, rounds)
    for row in rows:
        if row.missing:
            raise SystemExit(f"{line.path}, {row.name}: {row.missing}")
    return rows[0].seconds, rows[1].seconds


def in_one_process(line: Line, rounds: int) -> tuple[Seconds, Seconds]:
    """The same for a memory learner under two mappings."""
    torch.manual_seed(0)
    work = memory_learners.WORKLOADS[line.workload]
    learner, batch = work.make(), memory_learners.draw(work)
    sides = []
    for name in (line.with_it, line.without):
        mapped = replace(work, mapping=Mapping(name))
        step, _ = memory_learners.steps(mapped, copy.deepcopy(learner), batch)
        sides.append(step)
    seconds: tuple[Seconds, Seconds] = ([], [])
    for _ in range(rounds + 1):
        for step, each in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            step()
            each.append(time.perf_counter() - began)
    return seconds[0][1:], seconds[1][1:]  # the first warms up


def result(line: Line, fast: Seconds, slow: Seconds) -> dict[str, Any]:
    """A row of the table."""
    low, _, high = quantiles([s / f for f, s in zip(fast, slow, strict=True)], n=4)
    return {
        "path": line.path, "workload": line.workload,
        "with, ms": round(1e3 * median(fast), 3), "without, ms": round(1e3 * median(slow), 3),
        "ratio": round(median(slow) / median(fast), 2), "quartiles": f"{low:.2f} to {high:.2f}",
    }  # fmt: skip


def main() -> None:
    """Measure the paths named; keep earlier results of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted({line.path.split(",")[0] for line in LINES})
    parser.add_argument("paths", nargs="*", metavar="PATH", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tasks", type=int, default=8, help="of a step with images, at most")
    args = parser.parse_args()
    unknown = sorted(set(args.paths) - set(names))
    if unknown or args.rounds < 2:
        parser.error(f"paths are {', '.join(names)}, with 2 rounds or more; found {unknown}")
    keep_freed_memory()  # as fit does
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for line in LINES:
        if args.paths and line.path.split(",")[0] not in args.paths:
            continue
        if line.workload in WORKLOADS:
            seconds = in_processes(line, args.rounds, args.tasks)
        else:
            seconds = in_one_process(line, args.rounds)
        row = result(line, *seconds)
        known = [r for r in known if (r["path"], r["workload"]) != (line.path, line.workload)]
        known.append({**row, "rounds": args.rounds, "commit": commit(), **machine()})
        print(markdown_table([row]).splitlines()[-1], flush=True)
        write_atomically(RESULTS, (json.dumps(known, indent=1) + "\n").encode())
    print("\n" + markdown_table([{k: r[k] for k in list(r)[:6]} for r in known]))


if __name__ == "__main__":
    main()
