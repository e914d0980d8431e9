"""One contender of ``peers.py`` in a separate process, with its own threads and peak memory.

Reads one JSON object a line from standard input and answers each with one: first the contender
and the workload, then questions. Started by ``contest/turns.py``, by the interpreter that has the
contender's library.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from contest.contenders import Contender
from contest.work import Contest, NotOffered, Workload, first_weights, make_tasks

TASKS_FOR_GRADIENTS = 2


def main() -> None:
    """Answer until standard input ends."""
    # What libraries print goes to standard error, so that answers stay whole lines.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server: _Server | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if server is None:
                server = _Server(question)
            answer = server.answer(question)
        except ImportError as error:
            answer = {"missing": f"cannot be imported: {_first_line(error)}"}
        except NotOffered as error:
            answer = {"missing": str(error)}
        except Exception as error:  # whatever a library raises is its row's result
            answer = {"missing": f"{type(error).__name__}: {_first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")


class _Server:
    """Answers questions about one contender and one workload."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.contender = Contender(**first["contender"])
        self.work = Workload.from_json(first["workload"])
        self.contest: Contest | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``question["ask"]``."""
        answers = {"gradient": self.gradient, "ready": self.ready, "steps": self.steps,
                   "memory": self.memory}  # fmt: skip
        return answers[question["ask"]](question)

    def gradient(self, question: dict[str, Any]) -> dict[str, Any]:
        """Write the meta-gradient of two tasks to ``question["file"]``.

        In another process (on Linux with the imports of this one), since float64 would raise the
        peak here.
        """
        self.contender.prepare()
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(1, context) as pool:
            arguments = (self.contender, self.work, question["dtype"], question["file"])
            pool.submit(write_gradient, *arguments).result()
        return {}

    def ready(self, question: dict[str, Any]) -> dict[str, Any]:
        """Load everything, and take the first step."""
        prepare = self.contender.prepare()
        weights, tasks = first_weights(self.work), make_tasks(self.work)

        self.before = memory_mib("VmRSS")
        self.contest = prepare(self.work, weights, tasks)
        seconds = self.steps({"count": 1})["seconds"]
        return {"seconds": seconds, "versions": versions(self.contender)}

    def steps(self, question: dict[str, Any]) -> dict[str, Any]:
        """The total seconds of ``question["count"]`` steps."""
        assert self.contest is not None  # `ready` comes first
        began = time.perf_counter()
        for _ in range(question["count"]):
            self.contest()
        return {"seconds": time.perf_counter() - began}

    def memory(self, question: dict[str, Any]) -> dict[str, Any]:
        """The greatest memory of this process, and that of imports, weights and tasks alone."""
        return {"before_mib": self.before, "peak_mib": memory_mib("VmHWM")}


def write_gradient(contender: Contender, work: Workload, dtype_name: str, file: str) -> None:
    """The meta-gradient of two tasks as numbers of float64, in the order of ``first_weights``."""
    dtype = getattr(torch, dtype_name)
    torch.set_default_dtype(dtype)  # for libraries that make numbers of their own
    few = replace(work, tasks=TASKS_FOR_GRADIENTS)
    weights = {name: w.to(dtype) for name, w in first_weights(few).items()}
    found = contender.prepare()(few, weights, make_tasks(few).to(dtype))()
    if found.keys() != weights.keys():
        raise ValueError(f"gradients of {sorted(found)} instead of {sorted(weights)}")
    torch.cat([found[name].double().flatten() for name in weights]).numpy().tofile(file)


def memory_mib(field: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (greatest so far) of this process; None outside of Linux.

    Not from ``getrusage``, whose greatest size begins at that of the process that started this one.
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
