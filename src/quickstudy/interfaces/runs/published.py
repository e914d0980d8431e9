"""Evaluate a run's learner on published test tasks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from quickstudy.datasets import load_tasks
from quickstudy.datasets.cards import Card
from quickstudy.datasets.registry import card
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.tasks.order import reads_a_sequence


@dataclass(frozen=True)
class PublishedResult:
    """An evaluation on published tasks; ``saw_classes``: training had classes of these tasks."""

    evaluation: Evaluation
    card: Card
    saw_classes: bool

    def to_json(self) -> dict[str, Any]:
        """The evaluation, and beside it the published errors in %."""
        published = {error.method: error.percent for error in self.card.published}
        return self.evaluation.to_json() | {
            "published_errors": published, "trained_on_classes_of_these_tasks": self.saw_classes,
        }  # fmt: skip


def evaluate_published(
    run: Run, name: str, *, root: str | None = None, device: str | None = None
) -> PublishedResult:
    """Score the learner of ``run`` on each of the published tasks ``name`` once.

    ``root``  folder of the data sets; by default that of the run.

    Images have the size that the learner was trained on. Warns where training had classes of these
    tasks. Raises ValueError where the learner takes images of other channels.
    """
    learner, info = run.learner()
    shape, published = tuple(info["shape"]), card(name)
    channels = published.shape[0] if published.shape else None
    fits = len(shape) == 3 and shape[0] == channels
    if published.published and not fits:  # of other data, load_tasks says that they are no tasks
        raise ValueError(
            f"evaluate: {name} has images of shape {published.shape}, but the learner of "
            f"{run.path} takes inputs of shape {shape}. Give a run on images of as many channels."
        )
    tasks = load_tasks(
        name, root or run.recipe.root, size=shape[-1], shuffled=reads_a_sequence(learner)
    )
    saw_classes = trained_on_classes(run.recipe, published)
    if saw_classes:
        warnings.warn(
            f"evaluate: this run was trained on classes of {name}, so its error cannot be compared "
            "with published ones. Train with --split lake, which keeps them out.",
            stacklevel=2,
        )
    learner.to(choose_device(device))
    return PublishedResult(evaluate(learner, tasks.source), published, saw_classes)


def trained_on_classes(recipe: Recipe, tasks: Card) -> bool:
    """Whether the recipe's training classes include classes of the published ``tasks``."""
    split = recipe.split or next(iter(card(recipe.data).splits), "")
    return (recipe.data, split) in tasks.trained_on
