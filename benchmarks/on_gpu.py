"""Everything that only a GPU can tell, in one call of less than nine minutes.

    python benchmarks/on_gpu.py --root DATA                   # on a GPU
    python benchmarks/on_gpu.py --quick --device cpu --out x.json   # the same code, a few seconds
    python benchmarks/on_gpu.py --table                       # what has been measured

Parts, in this order; each is written as it ends, and a second call does only what is missing:

    peak        large matrix products on this chip, in each precision: what shares are shares of
    speed ...   a step of meta-training by quickstudy, by a plain PyTorch loop and by learn2learn,
                on the workloads of ``peers.py``. Before anything is timed, the gradient of each is
                compared in float64 with ``contest/oracle.py``; a wrong one is not timed. Contenders
                take turns. The share of the peak counts the operations of the plain loop.
    omniglot    20-way 1-shot training of learners for which ten CPU minutes are too few, at their
                papers' settings where these are known (``omniglot_papers.py``), on as many tasks as
                fit, tested on 600 tasks: those of ``omniglot.py``.

``--seconds`` bounds the whole call. A part is left out, with the reason, when its time does not
remain; each training takes an equal share of what is left, and ends early where it is slower than
its first steps were.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contest.on_device import QUICK, QUICK_WORKLOADS, WORKLOADS, machine, peaks, speed
from figures import as_json
from omniglot_papers import FULL, PAPERS, trained_and_tested
from omniglot_papers import QUICK as SMALL

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import choose_device, commit
from quickstudy.reports.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "on_gpu.json"
SECONDS = 520.0
TURNS = 15.0
"""Of the turns of one workload, at most."""
RESERVE = {"peak": 15.0, "speed": 25.0, "omniglot": 30.0}
"""Seconds that must be left before a part of a kind begins, for a whole machine."""

Part = Callable[[float], dict[str, Any]]
"""Seconds that it may take -> its result."""


def main() -> None:
    args = _arguments()
    if args.table:
        print(tables(json.loads(args.out.read_text())))
        return
    began = time.monotonic()
    device = choose_device(args.device)
    if device.type == "cpu" and args.device is None:
        raise ValueError(
            "on_gpu: this is to be measured on a GPU; torch finds none here. Give --device cpu to "
            "measure on the CPU, with --quick for a few seconds of work."
        )
    settings = {"quick": args.quick, "seed": args.seed, "norm": args.norm, **machine(device)}
    results = opened(args.out, settings)
    parts = parts_of(args, device)
    for number, (name, part) in enumerate(parts.items()):
        if name in results["parts"]:
            print(f"{name}: measured before")
            continue
        left = args.seconds - (time.monotonic() - began)
        needed = 0.0 if args.quick else RESERVE[name.split()[0]]
        if left < needed:
            results["left_out"][name] = f"{left:.0f} of {args.seconds:.0f} seconds were left"
        else:
            results["left_out"].pop(name, None)
            slices = sum(each.startswith("omniglot") for each in list(parts)[number:])
            start = time.monotonic()
            found = part(left / max(1, slices))
            results["parts"][name] = found | {"seconds": round(time.monotonic() - start, 1)}
        write_atomically(args.out, as_json(results))
        print(f"{name}: {summary(name, results)}", flush=True)
    print(tables(results))


def opened(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results in ``file``, or new ones; ValueError where they are of other settings."""
    if not file.exists():
        return {"settings": settings, "commit": commit(), "parts": {}, "left_out": {}}
    found: dict[str, Any] = json.loads(file.read_text())
    if found.get("settings") != settings:
        raise ValueError(
            f"on_gpu: {file} has results of other settings, {found.get('settings')}; found "
            f"{settings}. Give another --out, or move the file away."
        )
    return found


def parts_of(args: argparse.Namespace, device: torch.device) -> dict[str, Part]:
    """All parts by name, in order."""
    threads = torch.get_num_threads()

    def timed(name: str) -> Part:
        work = WORKLOADS[name]
        if args.quick:
            work = replace(work, **QUICK | ({} if work.steps else {"steps": 0}))
        rounds = 2 if args.quick else args.rounds
        return lambda seconds: speed(work, device, rounds, threads, TURNS)

    def row(name: str) -> Part:
        return lambda seconds: trained_and_tested(
            PAPERS[name], _data(args), device, 0.1 if args.quick else seconds, args.seed,
            args.norm, SMALL if args.quick else FULL,
        )  # fmt: skip

    parts: dict[str, Part] = {"peak": lambda seconds: peaks(device, args.quick)}
    workloads = QUICK_WORKLOADS if args.quick else WORKLOADS
    parts |= {f"speed {name}": timed(name) for name in workloads}
    parts |= {f"omniglot {name}": row(name) for name in PAPERS}
    unknown = set(args.only or ()) - set(parts)
    if unknown:
        raise ValueError(f"on_gpu: no part is called {sorted(unknown)}; there are {list(parts)}.")
    return {name: part for name, part in parts.items() if not args.only or name in args.only}


def _data(args: argparse.Namespace) -> qs.datasets.Dataset:
    """Omniglot; for the quick form, noise that is as large."""
    if not args.quick:
        return qs.datasets.load("omniglot", root=args.root, rotations=True)
    pixels = torch.rand(24 * 20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    noise = qs.LabelledRows.from_labels(pixels, [k for k in range(24) for _ in range(20)])
    return qs.datasets.Dataset(qs.datasets.card("omniglot"), noise, noise, noise, new_classes=False)


def summary(name: str, results: dict[str, Any]) -> str:
    """One line on a part."""
    if name in results["left_out"]:
        return f"left out: {results['left_out'][name]}"
    found = results["parts"][name]
    if "contenders" in found:
        return ", ".join(
            f"{row['contender']} {row.get('tasks_per_second', row.get('missing'))}"
            for row in found["contenders"]
        )
    return found.get("figure") or str(found["tflops"])


def tables(results: dict[str, Any]) -> str:
    """Speed, and accuracy on Omniglot, as Markdown."""
    peak = results["parts"].get("peak", {}).get("tflops", {})
    parts = [f"{results['settings']['device']}: {peak} TFLOP/s of large matrix products\n"]
    speeds = [p for n, p in results["parts"].items() if n.startswith("speed")]
    lines = [
        {
            "workload": found["workload"]["title"], "tasks a step": found["workload"]["tasks"],
            "contender": row["contender"], "tasks/s": row["tasks_per_second"],
            "quickstudy is faster": row["quickstudy_is_faster"], "TFLOP/s": row["tflops"],
            "of the peak": _shares(row["tflops"], peak), "MiB": row["peak_mib"],
            "error in float64": f"{row['errors']['float64']:.0e}",
        }
        for found in speeds
        for row in found["contenders"]
        if "missing" not in row
    ]  # fmt: skip
    accuracies = [
        {
            "learner": PAPERS[name.split()[1]].title, "20-way 1-shot": found["figure"],
            "published": PAPERS[name.split()[1]].published, "training tasks": found["tasks"],
            "in the paper": PAPERS[name.split()[1]].paper_tasks, "seconds": found["train_seconds"],
            "test tasks": found["evaluation"]["tasks"],
        }
        for name, found in results["parts"].items()
        if name.startswith("omniglot")
    ]  # fmt: skip
    parts += [markdown_table(rows) for rows in (lines, accuracies) if rows]
    parts += [f"{name} was left out: {why}" for name, why in results["left_out"].items()]
    return "\n".join(parts)


def _shares(tflops: float, peak: dict[str, float]) -> str:
    return ", ".join(f"{100 * tflops / of:.1f}% {name}" for name, of in peak.items()) or "–"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # fmt: off
    parser.add_argument("--device", help="cpu or cuda:NUMBER; by default the first GPU")
    parser.add_argument("--quick", action="store_true", help="little work, noise in place of data")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole call")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, by their names")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument("--norm", default="group", help="of the networks for Omniglot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    parser.add_argument("--table", action="store_true", help="print the results so far")
    parser.add_argument("--out", type=Path, default=RESULTS)
    # fmt: on
    args = parser.parse_args()
    if not args.seconds > 0 or args.rounds < 2:
        parser.error("--seconds must be above 0, and the spread over rounds needs 2 of them")
    return args


if __name__ == "__main__":
    main()
