"""Steps of meta-training on one device, in one process: the speed part of ``on_gpu.py``."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from contest.contenders import OURS, Contender
from contest.contenders.plain import loop
from contest.oracle import meta_gradient, relative_error
from contest.work import WORKLOADS as ALL
from contest.work import Contest, NotOffered, Weights, Workload, initial_weights, make_tasks

WORKLOADS = {
    name: replace(ALL[name], tasks=tasks)
    for name, tasks in (
        ("maml_28_1_step", 32),
        ("maml_84_5_steps", 16),
        ("fomaml_28_5_steps", 32),
        ("prototypical_28_5_ways", 32),
        ("prototypical_28_60_ways", 8),
    )
}
QUICK: dict[str, Any] = {
    "tasks": 2, "channels": 4, "ways": 3, "queries": 2, "image": (1, 16), "steps": 1,
}  # fmt: skip
QUICK_WORKLOADS = ("maml_28_1_step", "prototypical_28_5_ways")
CONTENDERS = (
    Contender(OURS, "ours.one_worker"),
    Contender("quickstudy, loop", "without.mapping"),
    Contender("plain loop", "plain.loop"),
    Contender("learn2learn", "learn2learn.loop", "learn2learn"),
)
AGREES = 1e-6
"""Greatest relative error of a gradient in float64; correct ones are at 1e-12 or so."""

DATA_SHEETS = {
    "H200": {"float32": 67.0, "tf32": 494.5, "bfloat16": 989.5},
    "H100 80GB HBM3": {"float32": 67.0, "tf32": 494.5, "bfloat16": 989.5},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
}
"""TFLOP/s without sparsity, by a part of the device's name, as the vendor's data sheets say."""


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the software."""
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else platform.machine()
    return {"device": name, "type": device.type, "torch": torch.__version__}


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, until the device is done."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began


def peaks(device: torch.device, quick: bool) -> dict[str, Any]:
    """TFLOP/s of square matrix products, the fastest of some, by precision; and the data sheet's.

    ``tf32`` are float32 numbers that are rounded before they are multiplied, as torch's
    convolutions do on a GPU unless told otherwise.
    """
    side = 256 if quick else 8192 if device.type == "cuda" else 2048
    kinds = [("float32", torch.float32, "highest")]
    if device.type == "cuda":
        kinds += [("tf32", torch.float32, "high"), ("bfloat16", torch.bfloat16, "highest")]
    before, found = torch.get_float32_matmul_precision(), {}
    for name, dtype, precision in kinds:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        torch.set_float32_matmul_precision(precision)
        times = [seconds_of(lambda a=a, b=b: a @ b, device) for _ in range(3 if quick else 20)]
        found[name] = float(f"{2 * side**3 / min(times) / 1e12:.4g}")
    torch.set_float32_matmul_precision(before)
    sheet = next((s for part, s in DATA_SHEETS.items() if part in machine(device)["device"]), None)
    return {"tflops": found, "data_sheet": sheet, "side": side}


def speed(
    work: Workload, device: torch.device, rounds: int, threads: int, seconds: float = math.inf
) -> dict[str, Any]:
    """Every contender's gradient against the oracle's, then turns of all that are right.

    ``rounds`` turns, or at least two of as many as ``seconds`` allow.
    """
    rows: list[dict[str, Any]] = []
    steps: dict[str, Contest] = {}
    expected = oracle(work)
    for contender in CONTENDERS:
        row: dict[str, Any] = {"contender": contender.name}
        rows.append(row)
        try:
            row["errors"] = {
                str(dtype).removeprefix("torch."): float(
                    f"{relative_error(gradient(contender, work, device, dtype), expected):.2g}"
                )
                for dtype in (torch.float64, torch.float32)
            }
            if row["errors"]["float64"] > AGREES:
                row["missing"] = f"its gradient is wrong by {row['errors']['float64']:.2g}"
                continue
            steps[contender.name] = prepared(contender, work, device)
        except ImportError as error:
            row["missing"] = f"cannot be imported: {error}"
        except NotOffered as error:
            row["missing"] = str(error)
    flops = work.tasks * flops_of_one_task(work, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(2):  # warm up
            step()
    began = time.perf_counter()
    for number in range(rounds):
        if number > 1 and time.perf_counter() - began > seconds:
            break
        for name, step in steps.items():
            times[name].append(seconds_of(step, device))
    for row in (row for row in rows if row["contender"] in times):
        own = times[row["contender"]]
        row |= {
            "tasks_per_second": round(work.tasks / median(own), 1),
            "quickstudy_is_faster": round(median(own) / median(times[OURS]), 2),
            "tflops": float(f"{flops / median(own) / 1e12:.3g}"),
            "peak_mib": memory_of(steps[row["contender"]], device),
            "seconds_per_step": [round(each, 6) for each in own],
        }
    return {"workload": work.to_json(), "threads": threads, "gflop_per_task":
            round(flops / work.tasks / 1e9, 4), "contenders": rows}  # fmt: skip


def oracle(work: Workload) -> Weights:
    """The gradient of two tasks in float64, on the CPU."""
    few = replace(work, tasks=2)
    return meta_gradient(few, initial_weights(few), make_tasks(few))


def gradient(
    contender: Contender, work: Workload, device: torch.device, dtype: torch.dtype
) -> Weights:
    """The gradient of two tasks by a contender, on the CPU again."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # for libraries that create tensors
    try:
        found = prepared(contender, replace(work, tasks=2), device, dtype)()
    finally:
        torch.set_default_dtype(before)
    return {name: each.detach().cpu() for name, each in found.items()}


def prepared(
    contender: Contender, work: Workload, device: torch.device, dtype: torch.dtype = torch.float32
) -> Contest:
    """A contender's step, with weights and tasks on the device."""
    weights = {name: w.to(device, dtype) for name, w in initial_weights(work).items()}
    return contender.prepare()(work, weights, make_tasks(work).to(dtype).on(device))


def flops_of_one_task(work: Workload, device: torch.device) -> int:
    """Operations of convolutions and matrix products; a multiply-add counts as two."""
    one = replace(work, tasks=1)
    weights = {name: w.to(device) for name, w in initial_weights(one).items()}
    step = loop(one, weights, make_tasks(one).on(device))
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def memory_of(step: Contest, device: torch.device) -> int | None:
    """MiB that a step needs beyond what is there before; None on a CPU (``peers.py`` has it)."""
    if device.type != "cuda":
        return None
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    finish(device)
    return int(torch.cuda.max_memory_allocated(device) - before) >> 20
