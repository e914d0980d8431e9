"""One contender of ``peers.py`` in a separate process, with its own threads and peak memory.

Reads one JSON object per line from standard input, a request, and writes one per line in reply. The
first request also holds the contender and the workload. ``contest/turns.py`` starts it with the
interpreter that has the contender's library.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from contest.contenders import Contender
from contest.work import Contest, NotOffered, Workload, initial_weights, make_tasks

TASKS_FOR_GRADIENTS = 2


def main() -> None:
    """Reply to requests until standard input ends."""
    # What libraries print goes to standard error, so that every line of output is a reply.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server: _Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                server = _Server(request)
            reply = server.reply(request)
        except ImportError as error:
            reply = {"missing": f"cannot be imported: {_first_line(error)}"}
        except NotOffered as error:
            reply = {"missing": str(error)}
        except Exception as error:  # any error of a library is reported in its row
            reply = {"missing": f"{type(error).__name__}: {_first_line(error)}"}
        replies.write(json.dumps(reply) + "\n")


class _Server:
    """Handles requests for one contender and one workload."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.contender = Contender(**first["contender"])
        self.work = Workload.from_json(first["workload"])
        self.contest: Contest | None = None

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to ``request["request"]``."""
        handlers = {"gradient": self.gradient, "ready": self.ready, "steps": self.steps,
                    "memory": self.memory}  # fmt: skip
        return handlers[request["request"]](request)

    def gradient(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the meta-gradient of two tasks to ``request["file"]``.

        In another process (on Linux with the imports of this one), because float64 would raise the
        peak memory of this one.
        """
        self.contender.prepare()
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(1, context) as pool:
            arguments = (self.contender, self.work, request["dtype"], request["file"])
            pool.submit(write_gradient, *arguments).result()
        return {}

    def ready(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load everything, and take the first step."""
        prepare = self.contender.prepare()
        weights, tasks = initial_weights(self.work), make_tasks(self.work)
        import_module("torch._dynamo")  # as every optimiser of torch does: 75 MiB for all alike
        self.before = memory_mib("VmRSS")
        self.contest = prepare(self.work, weights, tasks)
        seconds = self.steps({"count": 1})["seconds"]
        return {"seconds": seconds, "versions": versions(self.contender)}

    def steps(self, request: dict[str, Any]) -> dict[str, Any]:
        """The total seconds of ``request["count"]`` steps."""
        assert self.contest is not None  # `ready` comes first
        began = time.perf_counter()
        for _ in range(request["count"]):
            self.contest()
        return {"seconds": time.perf_counter() - began}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """The peak memory of this process, and its memory before the first step."""
        return {"before_mib": self.before, "peak_mib": memory_mib("VmHWM")}


def write_gradient(contender: Contender, work: Workload, dtype_name: str, file: str) -> None:
    """The meta-gradient of two tasks as float64 numbers, in the order of ``initial_weights``."""
    dtype = getattr(torch, dtype_name)
    torch.set_default_dtype(dtype)  # for libraries that create tensors
    few = replace(work, tasks=TASKS_FOR_GRADIENTS)
    weights = {name: w.to(dtype) for name, w in initial_weights(few).items()}
    found = contender.prepare()(few, weights, make_tasks(few).to(dtype))()
    if found.keys() != weights.keys():
        raise ValueError(f"gradients of {sorted(found)} instead of {sorted(weights)}")
    torch.cat([found[name].double().flatten() for name in weights]).numpy().tofile(file)


def memory_mib(field: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; None outside of Linux.

    Not from ``getrusage``, whose peak includes that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{field}:"))


def versions(contender: Contender) -> dict[str, str]:
    """Of torch and of the contender's own package."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if contender.package:
        try:
            found[contender.package] = version(contender.package)
        except PackageNotFoundError:  # built in a folder, without being installed
            module = sys.modules.get(contender.package)
            found[contender.package] = getattr(module, "__version__", "unknown")
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]


if __name__ == "__main__":
    main()
