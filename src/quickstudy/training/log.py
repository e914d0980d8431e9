"""What is told of training: each step, and the log, one JSON object per line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quickstudy.base.atomic import append_line, write_atomically
from quickstudy.base.json_text import parse_json
from quickstudy.base.shown import told
from quickstudy.compute.plan import Plan
from quickstudy.evaluation.result import Result


class Step(NamedTuple):
    """An optimiser step that was taken, for ``fit(on_step=...)``.

    ``step``           1 for the first.
    ``loss``, ``score``  means over the step's tasks; the score is NaN where tasks have none.
    ``gradient_norm``  of all parameters together, before it is clipped.
    ``rate``           the learning rate, of the optimiser's first group.
    ``validation``     the result of the validation after this step; None for most steps.
    """

    step: int
    loss: float
    score: float
    gradient_norm: float
    rate: float
    validation: Result | None = None


@dataclass(frozen=True)
class Training:
    """The result of training: the log's rows, the best validation, and the plan.

    ``interrupted_by``  the number of the signal that ended training early, such as
                        ``signal.SIGINT`` for Ctrl-C; 0 where training is complete.
    ``cpu_seconds``     of all cores together, checks before the first step left out.
    """

    rows: list[dict[str, Any]]
    steps: int
    seconds: float
    best_step: int
    best_score: float | None
    interrupted_by: int
    plan: Plan
    cpu_seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether training is complete; otherwise it can be resumed."""
        return self.interrupted_by == 0


class Log:
    """The log's rows, in memory and, if ``path`` is given, in that file (``metrics.jsonl``).

    Rows after ``step`` are dropped: a resumed run will write them again.
    """

    def __init__(self, path: Path | None, step: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path = path
        if path is None:
            return
        if path.exists():
            self.rows = [row for row in read_metrics(path) if row["step"] <= step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Append ``row`` with a single write, so that a killed process leaves no partial row."""
        self.rows.append(row)
        if self._path is not None:
            append_line(self._path, json.dumps(row))


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.jsonl``, in the order of optimiser steps; numbers only.

    Training rows hold ``step``, ``loss`` and ``score``; validation rows ``step`` and
    ``validation``. A last line without its newline, as a killed run may leave it, is left out.

    Raises FileNotFoundError where there is no such file, and ValueError for a line that is not
    a JSON object with a step.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"read_metrics: there is no training log at {path}. "
            "Give the metrics.jsonl of a run folder."
        )
    # Bytes that are no text become a character that is no JSON, in the line where they stand.
    *lines, _incomplete = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return sorted(rows, key=lambda row: row["step"])


def _row(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(
            f"read_metrics: line {number} of {path} is not JSON ({told(error)}). "
            "Remove the line, or run again."
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError(
            f"read_metrics: line {number} of {path} is not an object with an integer step. "
            "Remove the line, or run again."
        )
    return {key: value for key, value in row.items() if isinstance(value, int | float)}
