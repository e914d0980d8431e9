"""The training log: one JSON object per line, appended whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quickstudy.storage import write_atomically


class Log:
    """Rows of a run, in memory and, given a path, in ``metrics.jsonl``.

    Reopened at ``step``, rows after it are dropped: a resumed run will write them again.
    """

    def __init__(self, path: Path | None, step: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path = path
        if path is None:
            return
        if path.exists():
            self.rows = [row for row in read_log(path) if row["step"] <= step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Append ``row`` with a single write, so that a kill cannot leave half of it."""
        self.rows.append(row)
        if self._path is None:
            return
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (json.dumps(row) + "\n").encode())
        finally:
            os.close(handle)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}). Remove that line.") from error
    return rows
