"""The pretrained backbone of a recipe."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch

from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.datasets.registry import card
from quickstudy.files.registry import BACKBONES, LEARNERS, resolve
from quickstudy.interfaces.runs.recipe import Recipe, pretrained_card


def with_own_size(recipe: Recipe) -> Recipe:
    """``recipe`` with the side of pictures that its pretrained backbone was made for, if any.

    Raises ValueError for a backbone that reads no pictures.
    """
    if recipe.backbone in BACKBONES:
        return recipe
    facts = pretrained_card(recipe.backbone)
    if facts.reads != "pictures":
        raise ValueError(
            f"backbone: {recipe.backbone} reads {facts.reads}, but runs are on pictures or arrays. "
            "Take another backbone, or use qs.pretrained in Python."
        )
    if recipe.size is not None or "size" not in card(recipe.data).options:
        return recipe  # or pictures of a fixed size, which the backbone enlarges
    shape: Any = _pretrained(recipe, fixed=True).input_shape
    return replace(recipe, size=int(shape[-1]))


def _pretrained(recipe: Recipe, *, fixed: bool) -> torch.nn.Module:
    """The pretrained backbone; ``fixed``: its weights stay as they are.

    It enlarges pictures that are smaller than it can read.
    """
    facts, size = pretrained_card(recipe.backbone), recipe.size
    if size is None or "size" not in facts.options or "size" not in card(recipe.data).options:
        size = None
    else:
        size = max(size, facts.smallest)
    return pretrained(recipe.backbone, size=size, frozen=fixed)


def adapts_backbone(learner: str) -> bool:
    """Whether a learner changes weights of its backbone for each task."""
    cls = resolve("learner", learner, LEARNERS)
    return "adapts" in inspect.signature(cls).parameters


def backbone_for(recipe: Recipe, inputs: tuple[int, ...]) -> torch.nn.Module:
    """The recipe's pretrained backbone; ValueError for a learner or inputs that it does not fit."""
    facts = LEARNERS[recipe.learner]
    if facts.head or facts.maps:
        needs, other = "gives feature maps", ""
        if facts.head:
            needs = "ends in a head with the task's outputs"
            other = ", or put a head on it in Python: qs.backbones.WithHead"
        raise ValueError(
            f"backbone: {recipe.learner} needs a network that {needs}, but {recipe.backbone} gives "
            f"feature vectors. Take --learner simple_shot or linear_probe, another backbone{other}."
        )
    if len(inputs) != 3:
        raise ValueError(
            f"backbone: {recipe.backbone} takes images (channels, height, width), but inputs have "
            f"shape {inputs}. Use --backbone mlp."
        )
    return _pretrained(recipe, fixed=not adapts_backbone(recipe.learner))
