"""The folder of a comparison: what is compared, and the result, each written atomically.

plan.json        what is compared, and how; written first, and never changed
steps.json       steps of each learner, where they were measured
NAME-seed-N/     each training
comparison.json  the result with the score of every task, and no times: equal byte for byte after
                 any kill; with a digest, by which an edit is noticed
timings.json     seconds of training and adapting
scores.csv       the score of every learner, seed and task
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import create_atomically, remove_abandoned, write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.shown import shown
from quickstudy.selection.comparing.budget import Pace
from quickstudy.selection.comparing.compared import Comparisons
from quickstudy.selection.comparing.comparison import Comparison

FORMAT = "quickstudy comparison 1"
MOST = 2**29  # bytes of a comparison.json


@dataclass(frozen=True)
class Folder:
    """The folder of a comparison."""

    path: Path

    @staticmethod
    def of_settings(path: Path, settings: Mapping[str, Any]) -> Folder:
        """The folder for a comparison with these settings, new or begun before.

        Raises ValueError where another comparison was begun in it, FileExistsError where it holds
        anything else.
        """
        begin(path, "plan.json", settings, "comparison")
        return Folder(path)

    def run(self, name: str, seed: int) -> Path:
        """The folder of one training."""
        return self.path / f"{_as_file_name(name)}-seed-{seed}"

    def kept_paces(self) -> dict[str, Pace]:
        """Steps by learner, and whether it is validated, as far as they were measured."""
        file = self.path / "steps.json"
        if not file.is_file():
            return {}
        with damage_names(file):
            return {
                str(name): Pace(int(pace["steps"]), bool(pace["validated"]))
                for name, pace in read_json(file).items()
            }

    def keep_paces(self, paces: Mapping[str, Pace]) -> None:
        """Keep the paces that were measured."""
        values = {name: pace._asdict() for name, pace in paces.items()}
        write_atomically(self.path / "steps.json", _encoded(values, indent=1))

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return (self.path / "comparison.json").is_file()

    def write(self, found: Comparisons) -> None:
        """Write the result; ``comparison.json`` last, which marks the comparison as finished."""
        write_atomically(self.path / "timings.json", _encoded(times_of(found), indent=1))
        write_atomically(self.path / "scores.csv", scores_csv(found).encode())
        write_atomically(self.path / "comparison.json", encoded(found))

    def read(self) -> Comparisons:
        """The result; ValueError where ``comparison.json`` was edited or is damaged."""
        timings = self.path / "timings.json"
        times = read_json(timings, MOST) if timings.is_file() else {}
        return decoded(self.path / "comparison.json", times)


def begin(path: Path, name: str, settings: Mapping[str, Any], what: str) -> None:
    """Begin a comparison, or ``what`` else it is, in the folder ``path``, or go on with it there.

    ``name``  of the file that keeps the settings.

    Raises ValueError where another one was begun in it, FileExistsError where it holds anything
    else.
    """
    file = path / name
    if path.is_dir():
        remove_abandoned(path)
    if not file.is_file():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(
                f"{path}: is not empty and holds no {what}, and a {what} overwrites nothing. Give "
                "another folder."
            )
        create_atomically(file, _encoded(settings, indent=1))
        return
    kept = read_json(file, MOST)
    wanted = json.loads(json.dumps(settings))
    if kept != wanted:
        raise ValueError(f"{path}: {_difference(kept, wanted, what)}")


def _difference(kept: Any, wanted: Any, what: str) -> str:
    """The first setting in which it differs from the one that was begun, with remedy."""
    names = [n for n in {**kept, **wanted} if kept.get(n) != wanted.get(n)]
    name = names[0]
    return (
        f"holds a {what} with {name} {shown(kept.get(name))}; found {shown(wanted.get(name))}. "
        "Give the same settings to continue it, or another folder."
    )


def encoded(found: Comparisons) -> bytes:
    """As the bytes of ``comparison.json``."""
    tables = plain_tables(found)
    return _encoded({**tables, "digest": _digest(tables)})


def plain_tables(found: Comparisons) -> dict[str, Any]:
    """The tables as strict JSON, without times."""
    tables = (("inductive", found.inductive), ("transductive", found.transductive))
    return {
        "format": FORMAT,
        **{name: None if table is None else table.to_json() for name, table in tables},
    }


def decoded(file: Path, times: Mapping[str, Any] | None = None) -> Comparisons:
    """The comparison in a ``comparison.json``.

    Raises ValueError where it is not one, and where it was edited since it was written: the means
    must be those of the scores of single tasks, and the digest that of the content.
    """
    values = read_json(file, MOST)
    with damage_names(file):
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {shown(values.get('format'))}")
        digest = values.pop("digest", "")
        tables = [
            None if values[name] is None else Comparison.from_json(values[name], times)
            for name in ("inductive", "transductive")
        ]
    for table in tables:
        if table is not None:
            _refuse_other_means(file, table)
    if digest != _digest(values):
        raise ValueError(
            f"{file}: was edited after it was written, since its digest is no longer that of its "
            "content. Restore it, or delete it and give the same command again, which trains "
            "nothing twice."
        )
    return Comparisons(*tables)


def _refuse_other_means(file: Path, table: Comparison) -> None:
    for entry in table.entries:
        for result in entry.results:
            refuse_other_mean(file, entry.name, result)


def refuse_other_mean(file: Path, name: str, result: Any) -> None:
    """ValueError where the mean of a result is not that of its tasks' scores: it was edited."""
    if result.pooled:
        return
    found = float(result.values.nanmean())
    both_unknown = math.isnan(found) and math.isnan(result.mean)
    if not both_unknown and not abs(found - result.mean) <= 1e-6 * max(1.0, abs(found)):
        raise ValueError(
            f"{file}: was edited after it was written: the mean of {name} is {result.mean:.6g}, "
            f"but the scores of its tasks have the mean {found:.6g}. Restore it, or evaluate again."
        )


def times_of(found: Comparisons) -> dict[str, Any]:
    """By name, the times of each entry."""
    return {entry.name: entry.times() for table in found.tables for entry in table.entries}


def scores_csv(found: Comparisons) -> str:
    """A line for each protocol, entry, seed and task, with its score.

    A name that a spreadsheet would compute ("=1+1") begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "name", "kind", "seed", "task", "score"])
    for table in found.tables:
        for entry in table.entries:
            for seed, result in enumerate(entry.results):
                for task, value in enumerate(result.values.tolist()):
                    row = (_as_cell(entry.name), entry.kind, seed, task, f"{value:.8g}")
                    writer.writerow([table.protocol, *row])
    return text.getvalue()


def _as_cell(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _encoded(values: Any, indent: int | None = None) -> bytes:
    return (json.dumps(values, indent=indent, allow_nan=False) + "\n").encode()


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_file_name(name: str) -> str:
    """``name`` where it can be a file's name; else what can of it, and a hash of the whole."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}", name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_]+", "-", name)[:40].strip("-")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
