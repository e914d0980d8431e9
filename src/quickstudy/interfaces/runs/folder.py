"""The folder of a run: created by one run alone, and never overwritten."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.shown import told
from quickstudy.datasets.registry import card
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.fitted import own_classes
from quickstudy.interfaces.runs.provenance import Origin
from quickstudy.interfaces.runs.recipe import Recipe, read_recipe
from quickstudy.interfaces.runs.run_files import (
    RunFiles,
    application_in,
    create,
    json_bytes,
    new_folder,
    recipe_values,
)
from quickstudy.reports.titles import title_of
from quickstudy.training.checkpoint import RunFolder


@dataclass(frozen=True)
class Run(RunFiles):
    """The folder of a run of a :class:`Recipe`."""

    recipe: Recipe

    @staticmethod
    def create(recipe: Recipe, path: Path | None = None, *, command: str = "") -> Run:
        """A new folder for ``recipe``; FileExistsError where ``path`` is not empty.

        ``command``  the command line that started the run, for the report.
        """
        recipe = recipe.complete()
        origin = Origin.of(recipe, command)
        path = path or new_folder(f"{recipe.learner}-{recipe.data}")
        create(path, recipe.to_json(), origin)
        return Run(path, recipe)

    @staticmethod
    def open(path: str | Path) -> Run:
        """The run in an existing folder; FileNotFoundError where there is none.

        Raises ValueError for the run of an application.
        """
        values = recipe_values(path)
        if application := application_in(values):
            raise ValueError(
                f"{path}: is a run of the application {application}, but this reads runs whose "
                "tasks are to tell classes apart. Use run, evaluate, adapt, predict, report and "
                "compare for it."
            )
        try:
            return Run(Path(path), read_recipe(values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{Path(path) / 'recipe.json'}: {told(error)}") from error

    @property
    def steps(self) -> int:
        """Optimiser steps of training; 0 where nothing is trained over tasks."""
        return self.recipe.budget().steps

    @property
    def machine(self) -> Recipe:
        """The recipe, as far as all recipes are alike."""
        return self.recipe

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
        write_atomically(self.path / "origin.json", json_bytes(asdict(origin)))
        write_atomically(self.path / "recipe.json", json_bytes(recipe.to_json()))
        return Run(self.path, recipe)

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
