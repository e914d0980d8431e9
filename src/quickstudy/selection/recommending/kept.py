"""The folder of a recommendation: what was planned and trained, so that a killed one goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.evaluation.strict_json import plain
from quickstudy.selection.comparing.stored import begin
from quickstudy.selection.recommending.plan import Plan
from quickstudy.selection.recommending.racer import Cost

SETTINGS, RESULT = "settings.json", "recommendation.json"


@dataclass(frozen=True)
class Folder:
    """The folder of one recommendation."""

    path: Path

    def plan(self, name: str, make: Callable[[], Plan]) -> Plan:
        """The plan that is kept under ``name``, or a new one, which is kept."""
        file = self.path / f"{name}.json"
        if not file.is_file():
            write_atomically(file, _encoded(_plan_to_json(make())))
        with damage_names(file):
            return _plan_of(read_json(file))

    def keep(self, found: Mapping[str, Any]) -> None:
        """Write the recommendation."""
        write_atomically(self.path / RESULT, _encoded(found))


@contextmanager
def opened(run: str | Path | None, settings: Mapping[str, Any]) -> Iterator[Folder]:
    """The folder ``run``, new or begun with these settings; None for one that is deleted after.

    Raises ValueError where other settings were begun in it, FileExistsError where it holds
    anything else.
    """
    if run is None:
        with TemporaryDirectory(prefix="quickstudy-race-") as name:
            yield Folder(Path(name))
        return
    begin(Path(run), SETTINGS, settings, "recommendation")
    yield Folder(Path(run))


def _plan_to_json(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "seconds": plain(plan.seconds)}


def _plan_of(values: Mapping[str, Any]) -> Plan:
    seconds = values["seconds"]
    return Plan(
        tuple({str(name): int(steps) for name, steps in rung.items()} for rung in values["rungs"]),
        tuple(map(int, values["keep"])),
        int(values["tasks"]),
        {str(name): int(steps) for name, steps in values["final"].items()},
        int(values["seeds"]),
        int(values["test_tasks"]),
        float("nan") if seconds is None else float(seconds),
        {str(name): Cost(**cost) for name, cost in values["costs"].items()},
        {str(name): str(why) for name, why in values["failures"].items()},
    )


def _encoded(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()
