"""The folder of a run: created by one run alone, and never overwritten."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import create_atomically, remove_abandoned, write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.shown import told
from quickstudy.core import Learner
from quickstudy.datasets.registry import card
from quickstudy.evaluation.results import Evaluation
from quickstudy.files.registry import LEARNERS
from quickstudy.files.storage import load_with_info
from quickstudy.interfaces.runs.fitted import own_classes
from quickstudy.interfaces.runs.provenance import Origin
from quickstudy.interfaces.runs.recipe import Recipe, read_recipe
from quickstudy.reports.titles import title_of
from quickstudy.training.checkpoint import RunFolder


@dataclass(frozen=True)
class Run:
    """A run folder.

    Its first file is ``recipe.json``, from which the run can be started again after any crash;
    then it holds ``origin.json``, ``metrics.jsonl`` and ``checkpoint.safetensors`` from training,
    ``times.json``, ``learner.safetensors``, ``evaluation.json`` and, written last, ``report.html``.
    """

    path: Path
    recipe: Recipe

    @staticmethod
    def create(recipe: Recipe, path: Path | None = None, *, command: str = "") -> Run:
        """A new folder for ``recipe``; FileExistsError where ``path`` is not empty.

        ``command``  the command line that started the run, for the report.
        """
        recipe = recipe.complete()
        origin = Origin.of(recipe, command)
        if path is None:
            path = _new_folder(recipe)
        refuse_not_empty(path)
        try:
            create_atomically(path / "recipe.json", _json(recipe.to_json()))
        except FileExistsError as error:  # another run has started in it in this moment
            raise _not_empty(path) from error
        write_atomically(path / "origin.json", _json(asdict(origin)))
        return Run(path, recipe)

    @staticmethod
    def open(path: str | Path) -> Run:
        """The run in an existing folder; FileNotFoundError where there is none."""
        file = Path(path) / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: holds no run (no recipe.json). Give a folder that `quickstudy run` made. "
                f"A run that was killed before its first file is started again with --out {path}."
            )
        values = read_json(file)
        try:
            return Run(Path(path), read_recipe(values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {told(error)}") from error

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
            write_atomically(self.path / "origin.json", _json(asdict(Origin.of(self.recipe))))

    def further(self, steps: int) -> Run:
        """The run, to be trained to more ``steps``; the results of its old end are removed.

        Killed in between, it is a run without results, which can be resumed with either number of
        steps. With the steps that it has, nothing is changed.

        Raises ValueError for fewer steps, for a cross-validation, for a run without steps, and for
        one that validation has stopped early.
        """
        now = self.recipe.budget().steps
        if steps == now:
            return self
        if steps < now:
            raise ValueError(
                f"run: {self.path} has {now} steps; found --steps {steps}. Give more to train it "
                "further, or a new folder."
            )
        if not now:
            raise ValueError(
                f"run: {self.path} has trained nothing, since its weights are pretrained; found "
                f"--steps {steps}. Start a new run, with a learner or backbone that trains."
            )
        if self.recipe.folds:
            raise ValueError(
                f"run: {self.path} belongs to a cross-validation, whose runs all take the same "
                "steps. Start a new one in a new folder."
            )
        RunFolder(self.path, resume=True).refuse_stopped()
        origin, recipe = self.origin, replace(self.recipe, steps=steps)
        for name in ("report.html", "evaluation.json"):
            (self.path / name).unlink(missing_ok=True)
        origin = replace(origin, ends=(*(end for end in origin.ends if end != now), now))
        write_atomically(self.path / "origin.json", _json(asdict(origin)))
        write_atomically(self.path / "recipe.json", _json(recipe.to_json()))
        return Run(self.path, recipe)

    def evaluation(self) -> Evaluation:
        """The evaluation that the run stored."""
        file = self.path / "evaluation.json"
        with damage_names(file):
            return Evaluation.from_json(read_json(file, most=2**28))

    def keep_times(self, seconds: float, cpu_seconds: float) -> None:
        """Keep how long training took: on the clock, and of all cores together."""
        times = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
        write_atomically(self.path / "times.json", _json(times))

    @property
    def times(self) -> tuple[float, float]:
        """Seconds of training, on the clock and of all cores; 0 without steps, NaN if not known."""
        file = self.path / "times.json"
        if not self.recipe.budget().steps:
            return 0.0, 0.0
        if not file.is_file():  # a run of an earlier version
            return math.nan, math.nan
        with damage_names(file):
            kept = read_json(file)
            return float(kept["seconds"]), float(kept["cpu_seconds"])

    @property
    def data_name(self) -> str:
        """The data set's title; for the user's own data, the name of the folder or file."""
        found = card(self.recipe.data)
        own = found.classes is None and self.recipe.root
        return Path(self.recipe.root or "").name if own else found.title

    @property
    def title(self) -> str:
        """What is learnt, for reports and tables: the learner, and the data or their classes."""
        learner = LEARNERS[self.recipe.learner].title
        return title_of(learner, self.data_name, own_classes(self.path))

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


def refuse_not_empty(path: Path) -> None:
    """FileExistsError unless ``path`` is an empty folder or does not exist."""
    if path.is_dir():
        remove_abandoned(path)  # of a run that was killed before it had written its first file
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _not_empty(path)


def _not_empty(path: Path) -> FileExistsError:
    if (path / "recipe.json").is_file():
        remedy = f"Give another folder, or continue with `quickstudy run --resume {path}`."
    else:
        remedy = "It holds no run that could be continued: give another folder."
    return FileExistsError(f"{path}: is not empty, and a run overwrites nothing. {remedy}")


def _new_folder(recipe: Recipe) -> Path:
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{recipe.learner}-{recipe.data}"
    path, copies = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # another run started in the same second
            copies += 1
            path = base.with_name(f"{base.name}-{copies}")


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
