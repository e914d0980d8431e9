"""Recipes: every setting of a run that the command line or a YAML file can give, with its default.

Importing this module does not import torch, so that a wrong recipe is refused at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from quickstudy.backbones.pretrained.registry import CARDS, PretrainedCard
from quickstudy.backbones.pretrained.registry import card as card_of
from quickstudy.base.augmentations import augmentation_names
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown, told
from quickstudy.base.splitting import USUAL_WAYS, check_fractions
from quickstudy.compute.plan import Compute
from quickstudy.datasets.registry import card
from quickstudy.files.registry import BACKBONES, LEARNERS
from quickstudy.interfaces.runs.settings import check_settings, checked
from quickstudy.interfaces.runs.yaml_text import MOST as MOST_YAML
from quickstudy.interfaces.runs.yaml_text import parse_yaml
from quickstudy.learners.cards import OPTIMISERS

NORMS = ("group", "batch", "support", "running")
"""The keys of :data:`quickstudy.backbones.norms.NORMS`, which needs torch."""


class Limits(NamedTuple):
    """What a data set allows: it limits the *defaults* of a recipe, but no given value.

    ``train_classes``, ``test_classes``  numbers of classes.
    ``train_rows``, ``rows``             rows of the smallest class to train on, and of the smallest
                                         one to validate or test on.
    """

    train_classes: int
    test_classes: int
    train_rows: int
    rows: int


class Budget(NamedTuple):
    """The settings of tasks and training, all defaults filled in."""

    ways: int
    queries: int
    train_ways: int
    train_queries: int
    steps: int
    tasks_per_step: int
    optimiser: str
    rate: float
    validate_every: int


@dataclass(frozen=True)
class Recipe:
    """The settings of one run. None means the default of the learner, data set or machine.

    ``data``, ``root``, ``split``, ``size``, ``rotations``, ``strict``, ``fractions``,
    ``split_seed``                 see :func:`datasets.load`.
    ``folds``, ``fold``            cross-validation over classes, and one of its parts.
    ``learner``, ``options``       its name, and arguments of its constructor.
    ``backbone``, ``channels``, ``norm``   the network; ``channels`` is Conv4's width. The name of a
                                    pretrained one takes its published weights.
    ``ways``, ``shots``, ``queries``       of the test tasks; 5, 1 and 15, or what the data allow.
    ``train_ways``, ``train_queries``      of the training tasks; 5 queries, or what they allow.
    ``augment``                    changes of training images, such as "crop+flip+colour".
    ``within_superclass``          whether the classes of a task come from one superclass each time,
                                    such as an alphabet of Omniglot.
    ``steps``, ``tasks_per_step``, ``rate``  of training; the rate follows a cosine schedule. 0
                                    steps train nothing, as where all weights are pretrained.
    ``optimiser``, ``clip``        "adam" or "sgd"; greatest norm of a step's gradient.
    ``validate_every``, ``patience``   validation in training (0: none); the best weights are kept.
    ``test_tasks``, ``seed``, ``test_seed``  evaluation and randomness; tests take ``seed`` too.
    ``shuffled``                   support rows in random order, as sequence learners always have.
    ``threads``, ``device``        CPU threads; "cpu", "cuda" or "cuda:1", None for a GPU if any.
    ``workers``, ``compile``       how training steps are computed: see :class:`quickstudy.Compute`.

    Raises ValueError for unknown names and for numbers out of range.
    """

    data: str = "glyphs"
    root: str | None = None
    split: str | None = None
    size: int | None = None
    rotations: bool = False
    strict: bool = False
    fractions: Sequence[float] | None = None
    split_seed: int | None = None
    folds: int | None = None
    fold: int | None = None
    learner: str = "prototypical"
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = "conv4"
    channels: int = 64
    norm: str = "group"
    ways: int | None = None
    shots: int = 1
    queries: int | None = None
    train_ways: int | None = None
    train_queries: int | None = None
    within_superclass: bool = False
    steps: int | None = None
    tasks_per_step: int | None = None
    rate: float | None = None
    optimiser: str | None = None
    clip: float | None = None
    augment: str | None = None
    validate_every: int | None = None
    patience: int | None = None
    test_tasks: int = 600
    seed: int = 0
    test_seed: int | None = None
    shuffled: bool = False
    threads: int | None = None
    device: str | None = None
    workers: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        splits = card(self.data).splits
        for kind, name, valid in (
            ("learner", self.learner, LEARNERS), ("norm", self.norm, NORMS),
            ("optimiser", self.optimiser, OPTIMISERS),
            (f"split of {self.data}", self.split, splits),
        ):  # fmt: skip
            if name is not None and valid and name not in valid:
                raise unknown_name(kind, name, dict.fromkeys(valid))
        if self.backbone not in BACKBONES:
            pretrained_card(self.backbone)
        check_settings(self)
        self._check_split()
        if self.augment is not None:
            augmentation_names(self.augment)

    def _check_split(self) -> None:
        if self.fractions is not None:
            check_fractions(self.fractions)
        if self.folds is None:
            if self.fold is not None:
                raise ValueError("fold: is a part of a cross-validation. Give folds too.")
            return
        if (self.fold or 1) > self.folds:
            raise ValueError(f"fold: must be at most folds, {self.folds}; found {self.fold}.")
        excluded = ("split", "fractions", "validate_every", "patience")
        given = [name for name in excluded if getattr(self, name) is not None]
        if given and self.fold is None:
            raise ValueError(
                "folds: every class is tested on in one fold and trained on in all others, so "
                f"there is no other split and no validation; found {', '.join(given)}. Leave "
                "these out, or leave folds out."
            )

    @property
    def compute(self) -> Compute:
        """How training steps are computed."""
        return Compute(workers=self.workers, compile=self.compile)

    def budget(self, limits: Limits | None = None) -> Budget:
        """The settings of tasks and training, with defaults within ``limits``, where known."""
        default = LEARNERS[self.learner].training
        most = limits or Limits(*(sys.maxsize,) * 4)
        ways = self.ways or max(2, min(USUAL_WAYS, most.test_classes))
        train_ways = default.train_ways or ways
        steps = default.steps if self.steps is None else self.steps
        optimiser = self.optimiser or default.optimiser
        default_rate = default.rate if optimiser == default.optimiser else OPTIMISERS[optimiser]
        return Budget(
            ways=ways,
            queries=self.queries or max(1, min(15, most.rows - self.shots)),
            train_ways=self.train_ways or max(2, min(train_ways, most.train_classes)),
            train_queries=self.train_queries or max(1, min(5, most.train_rows - self.shots)),
            steps=steps,
            tasks_per_step=self.tasks_per_step or default.tasks_per_step,
            optimiser=optimiser,
            rate=self.rate or default_rate,
            validate_every=-(-steps // 4) if self.validate_every is None else self.validate_every,
        )

    def complete(self, limits: Limits | None = None) -> Recipe:
        """The recipe as a run records it: defaults filled in (:meth:`budget`), root absolute."""
        root = self.root and str(Path(self.root).expanduser().absolute())
        values = self.budget(limits)._asdict()
        if self.folds:
            del values["validate_every"]  # nothing is left to validate with
        return replace(self, root=root, **values)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON (and YAML) values."""
        return asdict(self)


def pretrained_card(name: str) -> PretrainedCard:
    """The card of the pretrained backbone ``name``; ValueError that lists all backbones."""
    try:
        return card_of(name)
    except ValueError:
        raise unknown_name("backbone", name, {**BACKBONES, **CARDS}) from None


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; ValueError for an unknown name or a value of the wrong type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"recipe: must be names with values; found {shown(values)}.")
    hints = get_type_hints(Recipe)
    known = {f.name: hints[f.name] for f in fields(Recipe)}
    for name in values:
        if name not in known:
            raise unknown_name("recipe", str(name), known)
    return Recipe(**{
        name: checked(f"recipe: {name}", value, known[name]) for name, value in values.items()
    })  # fmt: skip


def merge(
    values: Mapping[str, Any], given: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The ``values`` of a file, overridden by the ``given`` ones and by single ``options``."""
    merged = {**values, **given}
    file_options = merged.get("options", {})
    if options and isinstance(file_options, dict):  # read_recipe refuses any other type
        merged["options"] = {**file_options, **options}
    return merged


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` strings as a mapping of names to YAML values; ValueError for any other."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set: must be NAME=VALUE; found {shown(pair)}.")
        try:
            options[name.strip()] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"--set: {shown(value)} is not a YAML value ({error}).") from error
    return options


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The values in a YAML file; ValueError where it is not a mapping of names to values."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe. Check the path.")
    try:
        with path.open("rb") as file:
            values = parse_yaml(file.read(MOST_YAML * 4 + 1).decode())
    except ValueError as error:
        raise ValueError(f"{path}: must be YAML ({told(error)}). Correct the file.") from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ValueError(f"{path}: a recipe is lines of `name: value`; found {found}.")
    return values
