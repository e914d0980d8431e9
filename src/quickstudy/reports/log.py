"""Reading a training log: one JSON object per line in ``metrics.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.jsonl``, in order of their steps; numbers only.

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
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return sorted(rows, key=lambda row: row["step"])


def _row(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"read_metrics: line {number} of {path} is not JSON ({error}). "
            "Remove the line, or run again."
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError(
            f"read_metrics: line {number} of {path} is not an object with an integer step. "
            "Remove the line, or run again."
        )
    return {key: value for key, value in row.items() if isinstance(value, int | float)}
