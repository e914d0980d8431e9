"""The folder of a run: created by one run alone, and never overwritten."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner
from quickstudy.datasets.registry import card
from quickstudy.files.storage import load_with_info
from quickstudy.interfaces.runs.provenance import Origin
from quickstudy.interfaces.runs.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Run:
    """A run folder.

    It holds ``recipe.json`` and ``origin.json`` from the start, ``metrics.jsonl`` and
    ``checkpoint.safetensors`` from training, then ``learner.safetensors``, ``evaluation.json`` and,
    written last, ``report.html``.
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
        path = _new_folder(recipe) if path is None else _claim(path)
        write_atomically(path / "origin.json", _json(asdict(origin)))
        write_atomically(path / "recipe.json", _json(recipe.to_json()))
        return Run(path, recipe)

    @staticmethod
    def open(path: str | Path) -> Run:
        """The run in an existing folder; FileNotFoundError where there is none."""
        file = Path(path) / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: holds no run (no recipe.json). Give a folder that `quickstudy run` made."
            )
        try:
            return Run(Path(path), read_recipe(json.loads(file.read_text())))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @property
    def origin(self) -> Origin:
        """How the run was started first, before any resuming."""
        file = self.path / "origin.json"
        return Origin(**json.loads(file.read_text())) if file.is_file() else Origin()

    @property
    def data_name(self) -> str:
        """The data set's title; for the user's own data, the name of the folder or file."""
        found = card(self.recipe.data)
        own = found.classes is None and self.recipe.root
        return Path(self.recipe.root or "").name if own else found.title

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
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path}: is not empty, and a run overwrites nothing. "
            f"Give another folder, or continue with `quickstudy run --resume {path}`."
        )


def _claim(path: Path) -> Path:
    refuse_not_empty(path)
    path.mkdir(parents=True, exist_ok=True)
    try:
        # If two runs start at once, only one of them can create the file.
        (path / "origin.json").touch(exist_ok=False)
    except FileExistsError:
        refuse_not_empty(path)
    return path


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
