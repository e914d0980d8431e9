"""The folder of an application's run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.shown import told
from quickstudy.interfaces.application_runs.recipe import (
    ApplicationRecipe,
    read_application_recipe,
)
from quickstudy.interfaces.runs.groups import title_of_learner
from quickstudy.interfaces.runs.provenance import Origin
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
class ApplicationRun(RunFiles):
    """The folder of a run of an application."""

    recipe: ApplicationRecipe

    @staticmethod
    def create(
        recipe: ApplicationRecipe, path: Path | None = None, *, command: str = ""
    ) -> ApplicationRun:
        """A new folder for a complete ``recipe``; FileExistsError where ``path`` is not empty.

        ``command``  the command line that started the run, for the report.
        """
        path = path or new_folder(f"{recipe.learner}-{recipe.data}")
        create(path, recipe.to_json(), Origin.of(recipe, command))
        return ApplicationRun(path, recipe)

    @staticmethod
    def open(path: str | Path) -> ApplicationRun:
        """The run in an existing folder; FileNotFoundError or ValueError where there is none."""
        try:
            return ApplicationRun(Path(path), read_application_recipe(recipe_values(path)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{Path(path) / 'recipe.json'}: {told(error)}") from error

    @property
    def steps(self) -> int:
        """Optimiser steps of training; 0 where nothing is trained over tasks."""
        return self.recipe.steps or 0

    @property
    def machine(self) -> ApplicationRecipe:
        """The recipe, as far as all recipes are alike."""
        return self.recipe

    @property
    def title(self) -> str:
        """What is learnt, for reports and tables."""
        return title_of(title_of_learner(self.recipe.learner or ""), self.recipe.data_name)

    def further(self, steps: int) -> ApplicationRun:
        """The run, to be trained to more ``steps``; the results of its old end are removed.

        Raises ValueError for fewer steps, for a run without steps, and for one that validation has
        stopped early.
        """
        if steps == self.steps:
            return self
        if steps < self.steps or not self.steps:
            raise ValueError(
                f"run: {self.path} has {self.steps} steps; found --steps {steps}. Give more than "
                "it has to train it further, or start a new run."
            )
        RunFolder(self.path, resume=True).refuse_stopped()
        origin, recipe = self.origin, replace(self.recipe, steps=steps)
        for name in ("report.html", "evaluation.json"):
            (self.path / name).unlink(missing_ok=True)
        kept = (end for end in origin.ends if end != self.steps)
        origin = replace(origin, ends=(*kept, self.steps))
        write_atomically(self.path / "origin.json", json_bytes(asdict(origin)))
        write_atomically(self.path / "recipe.json", json_bytes(recipe.to_json()))
        return ApplicationRun(self.path, recipe)


def is_application_run(path: str | Path) -> bool:
    """Whether the folder holds the run of an application."""
    if not (Path(path) / "recipe.json").is_file():
        return False
    return bool(application_in(recipe_values(path)))
