"""quickstudy compared with other libraries: same machine, tasks and weights, in turns.

    python benchmarks/peers.py                          # every workload: an hour or two
    python benchmarks/peers.py sinusoid_maml --rounds 5
    python benchmarks/peers.py --only learn2learn higher
    python benchmarks/peers.py --interpreter learn2learn=/path/to/python
    python benchmarks/peers.py --contenders             # the contenders, and what each needs
    python benchmarks/peers.py --table                  # all results, and the chart

A step is the gradient of the mean loss of a batch of tasks, left in ``.grad``, without the
optimiser's own step. Tasks are random rows of the real shapes, 5-way 1-shot with 15 queries unless
a workload says otherwise; norms use the statistics of the given rows (transductive), as the
peers' do. Every contender has the same tasks and begins with the same weights.

Before anything is timed, each computes the gradient of two tasks by its own code, in float64 and in
float32, and is compared with one that is written out in float64 (``contest/oracle.py``). A wrong
one is not timed.

Each contender then runs in a separate process, all started first. In every round each takes its
turn while the others sleep, so that whatever else the machine does disturbs all equally. Peers have
torch's default number of threads; quickstudy has two workers with one thread each where it
loops over tasks. Memory is the greatest of the process, less what imports, weights and tasks take.

Peers are optional: one that is not installed has a line with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contest.contenders import CONTENDERS, OURS
from contest.report import chart, load, report, table
from contest.turns import contest, summary
from contest.work import WORKLOADS, Workload

from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "peers"


def main() -> None:
    args = _arguments()
    if args.contenders:
        print(markdown_table([{"contender": c.name, "needs": c.needs} for c in CONTENDERS]))
    elif args.table:
        results = load(args.out)
        if not results:
            raise SystemExit(f"no results in {args.out}: run some workloads first")
        print(report(results))
        chart(results, args.chart or args.out / "ratios.svg")
    else:
        for name in args.workloads or WORKLOADS:
            measure(WORKLOADS[name], args)


def measure(work: Workload, args: argparse.Namespace) -> None:
    """Measure one workload, write its result and print its table."""
    work = replace(work, tasks=args.tasks or work.tasks)
    contenders = [c for c in CONTENDERS if not args.only or c.name in (OURS, *args.only)]
    rows = summary(work, contest(work, contenders, args.rounds, dict(args.interpreter)))
    result = {
        "workload": work.to_json(), "rounds": args.rounds, "machine": machine(),
        "torch": torch.__version__, "commit": commit(), "contenders": rows,
    }  # fmt: skip
    target = args.out / f"{work.name}.json"
    write_atomically(target, (json.dumps(result, indent=1) + "\n").encode())
    print(f"{work.title}, {work.tasks} tasks\n\n{table(result)}")
    for row in rows:
        if "missing" in row:
            print(f"{row['contender']}: not measured, {row['missing']}")
    print(f"written to {target}\n", flush=True)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the software."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def _interpreter(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if name not in {c.name for c in CONTENDERS} or not path:
        raise argparse.ArgumentTypeError(f"must be CONTENDER=/path/to/python; found {text!r}")
    return name, path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [c.name for c in CONTENDERS]
    # fmt: off
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD",
                        help=f"of {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tasks", type=int, help="of a step, instead of the workload's own")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CONTENDER",
                        help=f"of {', '.join(names)}; quickstudy itself always is")
    parser.add_argument("--interpreter", type=_interpreter, action="append", default=[],
                        metavar="CONTENDER=PYTHON", help="run this one by another python")
    parser.add_argument("--contenders", action="store_true", help="say what each needs")
    parser.add_argument("--table", action="store_true", help="print all results; draw the chart")
    parser.add_argument("--chart", type=Path, help="default ratios.svg beside the results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    # fmt: on
    args = parser.parse_args()
    unknown = [name for name in args.workloads if name not in WORKLOADS]
    if unknown or args.rounds < 2:
        parser.error(
            f"no workload is called {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
            if unknown
            else "the spread over rounds needs at least 2 of them"
        )
    return args


if __name__ == "__main__":
    main()
