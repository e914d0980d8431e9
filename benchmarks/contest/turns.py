"""The contenders of one workload: started together, checked, then timed in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import IO, Any, cast

import numpy as np
import torch

from contest.contenders import CONTENDERS, OURS, Contender
from contest.oracle import meta_gradient, relative_error
from contest.work import Weights, Workload, initial_weights, make_tasks
from contest.worker import TASKS_FOR_GRADIENTS

TURN = 0.25  # least seconds of a turn: short steps are repeated
PAUSE = 0.05  # seconds before a turn, so that the threads of the last contender are idle
WARM_UPS = 2  # untimed turns
TOLERANCE = 1e-6  # largest relative error in float64 of a contender that is timed

Reply = dict[str, Any]


class Worker:
    """A contender's process, which waits for requests."""

    def __init__(self, contender: Contender, work: Workload, interpreter: str) -> None:
        self.contender = contender
        self.setup = {"contender": asdict(contender), "workload": work.to_json()}
        self.process = process = subprocess.Popen(
            [interpreter, "-m", "contest.worker"], cwd=Path(__file__).parents[1], text=True,
            bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.requests, self.replies = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def request(self, what: str, **details: Any) -> Reply:
        """The reply, or {"missing": the reason why there is none}."""
        message, self.setup = {**self.setup, "request": what, **details}, {}
        try:
            self.requests.write(json.dumps(message) + "\n")
            reply: Reply = json.loads(self.replies.readline())
        except (OSError, json.JSONDecodeError):
            return {"missing": f"its process ended with status {self.process.wait()}"}
        return reply

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@dataclass
class Row:
    """The results of one contender; ``missing`` is the reason why it was not timed.

    ``errors``   of the meta-gradient of two tasks, relative to float64: {"float64": …, …}.
    ``seconds``  of one step, for each round.
    """

    name: str
    missing: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float | str] = field(default_factory=dict)
    before_mib: int | None = None
    peak_mib: int | None = None
    seconds: list[float] = field(default_factory=list)


def contest(
    work: Workload,
    contenders: Sequence[Contender] = CONTENDERS,
    rounds: int = 11,
    interpreters: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for every contender; ``interpreters`` maps names to the Python to run them with."""
    python = {c.name: (interpreters or {}).get(c.name, sys.executable) for c in contenders}
    rows = {c.name: Row(c.name) for c in contenders}
    oracle = _Oracle(work)
    workers = [Worker(c, work, python[c.name]) for c in contenders]
    try:
        for worker in workers:
            row = rows[worker.contender.name]
            row.errors = {d: oracle.error(worker, d) for d in ("float64", "float32")}
            error = row.errors["float64"]
            if isinstance(error, float) and not error < TOLERANCE:
                row.missing = f"wrong: its meta-gradient is off by {error:.0e} in float64"
        _time(workers, rows, rounds)
    finally:
        for worker in workers:
            worker.close()
    return list(rows.values())


class _Oracle:
    """Compares gradients with the exact ones, which are computed once."""

    def __init__(self, work: Workload) -> None:
        self.work = replace(work, tasks=TASKS_FOR_GRADIENTS)
        self.weights, self.tasks = initial_weights(self.work), make_tasks(self.work)
        self.known: dict[bool, Weights] = {}

    def error(self, worker: Worker, dtype: str) -> float | str:
        """The relative error, or the reason why there is none."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "gradient"
            reply = worker.request("gradient", dtype=dtype, file=str(file))
            if "missing" in reply:
                return str(reply["missing"])
            flat = torch.from_numpy(np.fromfile(file))
        parts = flat.split([w.numel() for w in self.weights.values()])
        named = zip(self.weights.items(), parts, strict=True)
        found = {name: part.view(w.shape) for (name, w), part in named}
        return relative_error(found, self._exact(worker.contender.squared_distances))

    def _exact(self, squared: bool) -> Weights:
        if squared not in self.known:
            self.known[squared] = meta_gradient(self.work, self.weights, self.tasks, squared)
        return self.known[squared]


def _time(workers: Sequence[Worker], rows: Mapping[str, Row], rounds: int) -> None:
    steps: dict[Worker, int] = {}
    for worker in workers:
        row = rows[worker.contender.name]
        if row.missing is None:
            reply = worker.request("ready")
            row.missing, row.versions = reply.get("missing"), reply.get("versions", {})
        if row.missing is None:
            steps[worker] = 1
    for turn in range(WARM_UPS + rounds):
        for worker in list(steps):
            time.sleep(PAUSE)
            reply = worker.request("steps", count=steps[worker])
            row = rows[worker.contender.name]
            if "missing" in reply:  # it was killed, or failed after its first step
                row.missing = reply["missing"]
                del steps[worker]
            elif turn < WARM_UPS:
                each = reply["seconds"] / steps[worker]
                steps[worker] = max(1, round(TURN / each))
            else:
                row.seconds.append(reply["seconds"] / steps[worker])
    for worker in steps:
        memory, row = worker.request("memory"), rows[worker.contender.name]
        row.before_mib, row.peak_mib = memory["before_mib"], memory["peak_mib"]


def summary(work: Workload, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON, with rates and the speed of quickstudy relative to each."""
    ours = next((row.seconds for row in rows if row.name == OURS), [])
    return [_summary(work, row, ours) for row in rows]


def _summary(work: Workload, row: Row, ours: Sequence[float]) -> dict[str, Any]:
    if row.missing is not None or not row.seconds:
        return {"contender": row.name, "missing": row.missing}
    result: dict[str, Any] = {
        "contender": row.name, "versions": row.versions,
        "tasks_per_second": round(work.tasks / median(row.seconds), 3),
        "peak_mib": row.peak_mib, "before_mib": row.before_mib, "errors": row.errors,
        "seconds_per_step": [round(s, 6) for s in row.seconds],
    }  # fmt: skip
    if len(ours) == len(row.seconds) > 1:
        low, _, high = quantiles([a / b for a, b in zip(row.seconds, ours, strict=True)], n=4)
        ratio = median(row.seconds) / median(ours)
        result["quickstudy_is_faster"] = {
            "ratio_of_medians": round(ratio, 3), "quartile_1": round(low, 3),
            "quartile_3": round(high, 3),
        }  # fmt: skip
    return result
