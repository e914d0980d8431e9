"""What pictures of a user are adapted from: the learner of a run, or a pretrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.pretrained.registry import CARDS, PREFIXES
from quickstudy.backbones.pretrained.registry import card as card_of
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.core import Learner
from quickstudy.datasets.pictures import LARGEST_SIZE, PictureFormat
from quickstudy.evaluation.seen import weights_seen
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.interfaces.runs.assemble import learner_options
from quickstudy.interfaces.runs.featured import adapts_layers
from quickstudy.interfaces.runs.fitted import training_classes
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.picture_files import FileFormat, format_of_learner
from quickstudy.interfaces.runs.pretrained_backbone import adapts_backbone
from quickstudy.interfaces.runs.recipe import Recipe

WITHOUT_TRAINING = ("simple_shot", "linear_probe")
"""Learners between which ``adapt`` chooses on a pretrained backbone, the simplest first."""


@dataclass(frozen=True)
class Start:
    """A learner that can be adapted to pictures, and what is known of it.

    ``name``      the run's folder, or the name of the backbone; for messages.
    ``learners``  by name, the learners to choose from: one for a run.
    ``pictures``  the form of the pictures that they take.
    ``trained``   the classes of the user's own on which it was trained.
    ``norm``      the norm of the run's backbone.
    ``about``     of pretrained weights, the name of the ``backbone`` and what it has ``seen``.
    """

    name: str
    learners: Mapping[str, Learner]
    pictures: FileFormat
    trained: frozenset[str] = frozenset()
    norm: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


def start_of_run(run: Run) -> Start:
    """The learner of ``run``; ValueError where it takes no pictures."""
    learner, info = run.learner()
    pictures, recipe = format_of_learner(info, run.path), run.recipe
    trained = training_classes(run.path) if recipe.budget().steps else frozenset()
    about = {"backbone": recipe.backbone, "seen": seen} if (seen := _seen(learner)) else {}
    return Start(str(run.path), {recipe.learner: learner}, pictures, trained, recipe.norm, about)


def _seen(learner: Learner) -> str:
    """What the pretrained weights inside ``learner`` were trained on; "" without any."""
    return "; ".join(weights_seen(learner).values())


def start_of_backbone(
    name: str,
    learner: str | None = None,
    options: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> Start:
    """Learners over the frozen pretrained backbone ``name``, which need no training.

    ``learner``  one of them; by default those of :data:`WITHOUT_TRAINING`.
    ``options``  arguments of its constructor.
    ``size``     side in pixels to which pictures are reduced; by default that of the backbone.

    Raises ValueError for a learner that would first have to be trained, and for a backbone that
    reads no pictures; ImportError, with the command, where its package is not installed.
    """
    facts = card_of(name)
    if facts.reads != "pictures":
        raise ValueError(
            f"adapt: reads image files, but {name} reads {facts.reads}. Take another backbone, or "
            "use qs.pretrained in Python."
        )
    if size is not None and "size" not in facts.options:
        raise ValueError(f"adapt: {name} has pictures of one size. Leave --size out.")
    if size is not None and not 1 <= size <= LARGEST_SIZE:
        raise ValueError(f"adapt: --size must be 1 to {LARGEST_SIZE} pixels; found {size}.")
    if options and learner is None:
        raise ValueError("adapt: --set is for a learner. Give --learner too.")
    chosen: dict[str, Mapping[str, Any]] = {each: {} for each in WITHOUT_TRAINING}
    if learner is not None:
        chosen = {learner: learner_options(Recipe(learner=learner, options=dict(options or {})))}
    moved = learner is not None and adapts_backbone(learner)
    backbone = pretrained(name, size=size, frozen=not moved)
    learners = {each: _made(each, backbone, given) for each, given in chosen.items()}
    side: Any = backbone.input_shape
    pictures = PictureFormat(3, int(side[-1]), "bicubic", 0.0, 1.0, "varied", {})
    return Start(name, learners, pictures, about={"backbone": name, "seen": facts.seen})


def _made(name: str, backbone: nn.Module, options: Mapping[str, Any]) -> Learner:
    """A learner over a frozen backbone; ValueError where it has something to be trained."""
    cls, facts = resolve("learner", name, LEARNERS), LEARNERS[name]
    usable = ", ".join(WITHOUT_TRAINING)
    if facts.head or facts.maps:
        needs = "a head of its own" if facts.head else "feature maps"
        raise ValueError(
            f"adapt: {name} needs a backbone with {needs}, but a pretrained one gives vectors. "
            f"Take --learner {usable}, or train one with `quickstudy run`."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = cast("Learner", cls(backbone, **options)).eval()
    trained = any(parameter.requires_grad for parameter in learner.parameters())
    if trained and not adapts_layers(cls):
        raise ValueError(
            f"adapt: {name} has weights that must be trained over many tasks first. Take "
            f"--learner {usable}, or train it with `quickstudy run --learner {name}`."
        )
    return learner


def find_start(
    given: str, learner: str | None, options: Mapping[str, Any], size: int | None
) -> Start:
    """The start that ``given`` names: a run's folder, or a pretrained backbone.

    Raises FileNotFoundError for anything else, and ValueError for options of a backbone with a run.
    """
    folder = Path(given)
    if (folder / "recipe.json").exists() or (folder.exists() and not _is_backbone(given)):
        if learner is not None or options or size is not None:
            raise ValueError(
                f"adapt: {given} is a run, which has a learner of its own. Leave --learner, --set "
                "and --size out, or give the name of a pretrained backbone."
            )
        return start_of_run(Run.open(folder))
    if not _is_backbone(given):
        nearest = str(unknown_name("backbone", given, CARDS)).partition(" is unknown. ")[2]
        raise FileNotFoundError(
            f"adapt: {shown(given)} is neither the folder of a run nor a pretrained backbone. Give "
            f"a folder that `quickstudy run` made, or a backbone. {nearest}"
        )
    return start_of_backbone(given, learner, options, size)


def _is_backbone(name: str) -> bool:
    prefix, colon, model = name.partition(":")
    return name in CARDS or bool(colon and model and prefix in PREFIXES)
