"""What the folders of all runs have: files, results, times and the trained learner."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import create_atomically, remove_abandoned, write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.core import Learner
from quickstudy.evaluation.results import Evaluation
from quickstudy.files.storage import load_with_info
from quickstudy.interfaces.runs.provenance import Machine, Origin


@dataclass(frozen=True)
class RunFiles(ABC):
    """A run folder.

    Its first file is ``recipe.json``, from which the run can be started again after any crash;
    then it holds ``origin.json``, ``metrics.jsonl`` and ``checkpoint.safetensors`` from training,
    ``times.json``, ``learner.safetensors``, ``evaluation.json`` and, written last, ``report.html``.
    """

    path: Path

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimiser steps of training; 0 where nothing is trained over tasks."""

    @property
    def seed(self) -> int:
        """The seed of the initial weights and of the training tasks."""
        return self.machine.seed

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """The recipe, as far as all recipes are alike."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What is learnt, for reports and tables."""

    @property
    def origin(self) -> Origin:
        """How the run was started first, before any resuming."""
        file = self.path / "origin.json"
        if not file.is_file():
            return Origin()
        with damage_names(file):
            return Origin.from_json(read_json(file))

    def complete_origin(self) -> None:
        """Write ``origin.json`` where the run was killed before it did."""
        if not (self.path / "origin.json").exists():
            write_atomically(self.path / "origin.json", json_bytes(asdict(Origin.of(self.machine))))

    def evaluation(self) -> Evaluation:
        """The evaluation that the run stored."""
        file = self.path / "evaluation.json"
        with damage_names(file):
            return Evaluation.from_json(read_json(file, most=2**28))

    def keep_times(self, seconds: float, cpu_seconds: float) -> None:
        """Keep how long training took: on the clock, and of all cores together."""
        times = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
        write_atomically(self.path / "times.json", json_bytes(times))

    @property
    def times(self) -> tuple[float, float]:
        """Seconds of training, on the clock and of all cores; 0 without steps, NaN if not known."""
        file = self.path / "times.json"
        if not self.steps:
            return 0.0, 0.0
        if not file.is_file():  # a run of an earlier version
            return math.nan, math.nan
        with damage_names(file):
            kept = read_json(file)
            return float(kept["seconds"]), float(kept["cpu_seconds"])

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its report, which is written last, exists."""
        return (self.path / "report.html").is_file()

    def learner(self) -> tuple[Learner, dict[str, Any]]:
        """The trained learner, on the CPU, and the ``info`` saved with it (``shape`` of inputs)."""
        file = self.path / "learner.safetensors"
        if not file.exists():
            raise FileNotFoundError(
                f"{self.path}: training has not finished. "
                f"Continue it with `quickstudy run --resume {self.path}`."
            )
        return load_with_info(file)


def create(path: Path, recipe: dict[str, Any], origin: Origin) -> None:
    """Write the first files of a run; FileExistsError where ``path`` is not empty."""
    refuse_not_empty(path)
    try:
        create_atomically(path / "recipe.json", json_bytes(recipe))
    except FileExistsError as error:  # another run has started in it in this moment
        raise not_empty(path) from error
    write_atomically(path / "origin.json", json_bytes(asdict(origin)))


def recipe_values(path: str | Path) -> Any:
    """What ``recipe.json`` holds; FileNotFoundError for a folder without a run."""
    file = Path(path) / "recipe.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: holds no run (no recipe.json). Give a folder that `quickstudy run` made. "
            f"A run that was killed before its first file is started again with --out {path}."
        )
    return read_json(file)


def application_in(values: Any) -> str:
    """The application that a recipe's values name; "" for those of another run."""
    return str(values.get("application", "")) if isinstance(values, dict) else ""


def refuse_not_empty(path: Path) -> None:
    """FileExistsError unless ``path`` is an empty folder or does not exist."""
    if path.is_dir():
        remove_abandoned(path)  # of a run that was killed before it had written its first file
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise not_empty(path)


def not_empty(path: Path) -> FileExistsError:
    """The error for a folder in which a run cannot start."""
    if (path / "recipe.json").is_file():
        remedy = f"Give another folder, or continue with `quickstudy run --resume {path}`."
    else:
        remedy = "It holds no run that could be continued: give another folder."
    return FileExistsError(f"{path}: is not empty, and a run overwrites nothing. {remedy}")


def new_folder(name: str) -> Path:
    """A new folder in ``runs``, with the time and ``name``."""
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    path, copies = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # another run started in the same second
            copies += 1
            path = base.with_name(f"{base.name}-{copies}")


def json_bytes(values: dict[str, Any]) -> bytes:
    """``values`` as the content of a file."""
    return (json.dumps(values, indent=2) + "\n").encode()
