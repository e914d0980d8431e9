"""From a recipe to data, task sources and a learner."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from quickstudy import datasets
from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.registry import BACKBONES, FUNCTIONS, LEARNERS, nearest, resolve
from quickstudy.runs.recipe import Recipe
from quickstudy.tasks.episodes import Episodes, episodes


@dataclass(frozen=True)
class Sources:
    """The task sources of a run."""

    train: Episodes
    val: Episodes
    test: Episodes


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data set."""
    return datasets.load(
        recipe.data, recipe.root, split=recipe.split, size=recipe.size, rotations=recipe.rotations
    )


def make_sources(recipe: Recipe, data: Dataset) -> Sources:
    """Training tasks as the recipe trains, validation and test tasks as it tests."""
    train_ways = min(recipe.train_ways or recipe.ways, len(data.train))
    train = episodes(data.train, train_ways, recipe.shots, recipe.train_queries)
    val, test = (
        episodes(split, recipe.ways, recipe.shots, recipe.queries)
        for split in (data.val, data.test)
    )
    return Sources(train, val, test)


def make_learner(recipe: Recipe, inputs: tuple[int, ...]) -> Learner:
    """The recipe's learner for inputs of one shape; its first weights depend on the seed alone."""
    cls = resolve("learner", recipe.learner, LEARNERS)
    options = {name: _option(value) for name, value in recipe.options.items()}
    valid = {n: None for n in inspect.signature(cls).parameters if n != "backbone"}
    for name in options:
        if name not in valid:
            raise nearest(f"option of {recipe.learner}", name, valid)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        backbone = _backbone(recipe, inputs, recipe.ways if cls.differentiates else None)
        learner: Learner = cls(backbone, **options)
    return learner


def _option(value: Any) -> Any:
    """Functions are given by name: ``distance=cosine``."""
    if isinstance(value, str) and value in FUNCTIONS:
        return resolve("function", value, FUNCTIONS)
    return tuple(value) if isinstance(value, list) else value


def _backbone(recipe: Recipe, inputs: tuple[int, ...], outputs: int | None) -> torch.nn.Module:
    cls = resolve("backbone", recipe.backbone, BACKBONES)
    if recipe.backbone == "mlp":
        size = int(torch.tensor(inputs).prod())
        return cls(size, hidden=(256, 128), outputs=outputs)  # type: ignore[no-any-return]
    if len(inputs) != 3:
        raise ValueError(
            f"backbone: {recipe.backbone} takes images (channels, height, width), but inputs have "
            f"shape {inputs}. Use --backbone mlp."
        )
    if recipe.backbone == "resnet12":
        return cls(norm=recipe.norm, in_channels=inputs[0], outputs=outputs)  # type: ignore[no-any-return]
    return cls(  # type: ignore[no-any-return]
        recipe.channels, recipe.norm, in_channels=inputs[0], image_size=inputs[-1], outputs=outputs
    )
