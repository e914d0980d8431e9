"""Time and memory of a training step as one quantity grows, and its share of the machine's peak.

    python benchmarks/scaling.py            # about ten minutes on an idle machine of two cores
    python benchmarks/scaling.py --table    # print the results, and draw the chart

A step is the gradient of the mean query loss, as ``fit`` computes it with two workers, for Conv4
with batch norm on random images. The base is 5-way 1-shot with 15 queries, 28x28, 64 filters, 4
tasks and, for gradient learners, 1 inner step. Every point is measured in a separate process: the
median of its steps, and the greatest resident memory less that before the first.

Arithmetic is what torch counts for convolutions and matrix products (two operations for each
multiplication with its addition). The machine's peak is the best of large convolutions, forward and
channels last, by as many threads, between the points.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from contest.worker import memory_mib
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.compute.engine import accumulate
from quickstudy.compute.memory import keep_freed_memory
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.objectives import query_loss
from quickstudy.reports.style import CLASS_COLOURS, PAPER, figure_style
from quickstudy.reports.tables import markdown_table
from quickstudy.tasks.stacks import stack
from quickstudy.training.plan import make_plan

RESULTS = Path(__file__).parent / "results" / "scaling.json"
SECONDS, MOST_STEPS, WORKERS = 3.0, 30, 2


@dataclass(frozen=True)
class Point:
    """One measured step; see the module's docstring for the fixed settings."""

    learner: str
    tasks: int = 4
    steps: int = 1
    ways: int = 5
    shots: int = 1
    side: int = 28
    width: int = 64


AXES: dict[str, list[dict[str, int]]] = {
    "tasks per step": [{"tasks": n} for n in (2, 4, 8, 16, 32)],
    "inner steps": [{"steps": n} for n in (1, 2, 5, 10)],
    "ways × shots": [{"ways": w, "shots": s} for w, s in ((5, 1), (5, 5), (20, 1), (20, 5))],
    "image side": [{"side": n} for n in (28, 56, 84)],
    "filters": [{"width": n} for n in (16, 32, 64, 128)],
}
LEARNERS = ("MAML", "FOMAML", "Prototypical")


def points(axis: str) -> list[Point]:
    """The points along ``axis``; none along ``steps`` for a learner without inner steps."""
    learners = [n for n in LEARNERS if axis != "inner steps" or n != "Prototypical"]
    return [replace(Point(name), **change) for name in learners for change in AXES[axis]]


def make_learner(point: Point) -> qs.Learner:
    """A learner of ``point`` with fresh weights."""
    outputs = None if point.learner == "Prototypical" else point.ways
    net = qs.backbones.Conv4(point.width, "batch", image_size=point.side, outputs=outputs)
    if point.learner == "Prototypical":
        learner: qs.Learner = qs.Prototypical(net)
    elif point.learner == "FOMAML":
        learner = qs.MAML(net, point.steps, 0.1, FirstOrder())
    else:
        learner = qs.MAML(net, point.steps, 0.1)
    return learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def make_batch(point: Point) -> qs.Task:
    """Random tasks; their values do not matter, since no operator's time depends on them."""

    def rows(each: int) -> qs.Examples:
        images = torch.rand(point.ways * each, 1, point.side, point.side)
        return qs.examples(images, torch.arange(point.ways).repeat(each))

    spec = qs.classification(point.ways)
    return stack([qs.Task(rows(point.shots), rows(15), spec) for _ in range(point.tasks)])


def measure(point: Point) -> dict[str, Any]:
    """Time, memory and arithmetic of ``point``, measured in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_freed_memory()
    learner, batch = make_learner(point), make_batch(point)
    before = memory_mib("VmRSS")
    plan = make_plan(learner, batch, query_loss, point.tasks, qs.Compute("loop", workers=WORKERS))

    def step() -> None:
        learner.zero_grad(set_to_none=True)
        accumulate(learner, batch, query_loss, plan)

    step()
    each, most = seconds_of(step), memory_mib("VmHWM")
    flops = counted(lambda: accumulate(learner, batch, query_loss, replace(plan, workers=1)))
    return {
        **asdict(point), "ms_per_task": round(each / point.tasks * 1e3, 2),
        "peak_mib": None if most is None or before is None else most - before,
        "gflop_per_task": round(flops / point.tasks / 1e9, 3),
        "gflop_per_second": round(flops / each / 1e9, 1),
    }  # fmt: skip


def seconds_of(step: Callable[[], object]) -> float:
    """The median of as many steps as fit into some seconds, three at least."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < MOST_STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return median(times)


def counted(work: Callable[[], object]) -> int:
    """Operations of ``work`` in convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def convolution_rate() -> float:
    """GFLOP per second of one large convolution by all threads."""
    torch.set_num_threads(WORKERS)
    maps = torch.rand(64, 64, 28, 28).to(memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3).to(memory_format=torch.channels_last)

    def convolve() -> Tensor:
        return F.conv2d(maps, weight, padding=1)

    with torch.no_grad():
        return counted(convolve) / seconds_of(convolve) / 1e9


def table(result: dict[str, Any]) -> list[dict[str, object]]:
    """The results: a line for each value of an axis."""
    lines: list[dict[str, object]] = []
    for axis, rows in result["axes"].items():
        for change in AXES[axis]:
            at = {r["learner"]: r for r in rows if change.items() <= r.items()}
            line: dict[str, object] = {"axis": axis, "value": value_of(change)}
            for title, key in (("ms per task", "ms_per_task"), ("MiB", "peak_mib")):
                line |= {f"{n}, {title}": at[n][key] if n in at else None for n in LEARNERS}
            line["share of peak"] = " / ".join(
                f"{100 * at[n]['gflop_per_second'] / result['peak']:.0f}%" if n in at else "–"
                for n in LEARNERS
            )
            lines.append(line)
    return lines


def value_of(change: dict[str, int]) -> str:
    """The value on an axis: one number, or "5 × 1"."""
    return " × ".join(map(str, change.values()))


def chart(result: dict[str, Any], file: Path) -> None:
    """Time and memory along every axis; ``file`` ends in .svg or .png."""
    from matplotlib.figure import Figure

    rows_of_figure = (("ms_per_task", "ms per task"), ("peak_mib", "memory, MiB"))
    with figure_style():
        figure = Figure(figsize=(11, 4.4), facecolor=PAPER)
        grid = figure.subplots(2, len(result["axes"]), sharey="row", squeeze=False)
        for column, (axis, rows) in enumerate(result["axes"].items()):
            places = {value_of(change): i for i, change in enumerate(AXES[axis])}
            for axes, (key, label) in zip(grid[:, column], rows_of_figure, strict=True):
                for name, colour in zip(LEARNERS, CLASS_COLOURS, strict=False):
                    values = [r[key] for r in rows if r["learner"] == name]
                    axes.plot(range(len(values)), values, "o-", ms=3, color=colour, label=name)
                axes.set(yscale="log", xticks=range(len(places)), xticklabels=list(places))
                axes.set_ylabel("" if column else label)
            grid[1, column].set_xlabel(axis)
        grid[0, 0].legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=120)


def in_new_process(point: Point) -> dict[str, Any]:
    """:func:`measure` in a new process, where nothing has used memory yet."""
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(f"{point}: {result['ms_per_task']} ms per task, {result['peak_mib']} MiB, "
          f"{result['gflop_per_second']} GFLOP/s", flush=True)  # fmt: skip
    return result


def main() -> None:
    """Measure every axis, or show the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axis", action="append", choices=list(AXES), help="only this one")
    parser.add_argument("--table", action="store_true", help="print the results")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw it")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(Point(**json.loads(args.point)))))
        return
    if not (args.table or args.chart):
        axes, rates = {}, [convolution_rate()]
        for axis in args.axis or AXES:
            axes[axis] = [in_new_process(point) for point in points(axis)]
            rates.append(convolution_rate())
        result = {"commit": commit(), "torch": torch.__version__, "workers": WORKERS,
                  "peak": round(max(rates), 1), "axes": axes}  # fmt: skip
        write_atomically(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    result = json.loads(RESULTS.read_text())
    print(markdown_table(table(result)))
    chart(result, args.chart or RESULTS.with_suffix(".svg"))


if __name__ == "__main__":
    main()
