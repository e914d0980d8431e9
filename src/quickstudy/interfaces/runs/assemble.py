"""Make data, task sources and a learner from a recipe."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import torch

from quickstudy import datasets
from quickstudy.backbones.pretrained.source import source_of
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.registry import card
from quickstudy.files.registry import BACKBONES, FUNCTIONS, LEARNERS, resolve
from quickstudy.interfaces.runs.featured import (
    Featured,
    backbone_of,
    featured,
    is_fixed,
    on_features,
)
from quickstudy.interfaces.runs.fitted import fitted, limits
from quickstudy.interfaces.runs.pretrained_backbone import backbone_for, with_own_size
from quickstudy.interfaces.runs.provenance import choose_device
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.interfaces.runs.settings import checked
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.tasks.episodes import Episodes, episodes
from quickstudy.tasks.order import reads_a_sequence
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import class_folds

Choices = Mapping[str, tuple[str, ...]]

CHOICES: Choices = {
    "update": ("sgd", "momentum", "adam"),
    "meta_gradient": ("exact", "first_order", "finite_difference", "implicit", "annealed"),
    "then": ("exact", "finite_difference", "implicit"),
}
"""Arguments of many learners that are functions or parts, and the names that a recipe may give.

The card of a learner lists further choices for that learner alone. A part with settings may also be
given as a mapping, such as ``{name: implicit, strength: 2.0}``.
"""


@dataclass(frozen=True)
class Sources:
    """The task sources of a run; None where no classes are kept for that purpose."""

    train: Episodes
    val: Episodes | None
    test: Episodes | None


@dataclass(frozen=True)
class Parts:
    """Everything that a run needs, made from its complete recipe; the learner is on its device.

    ``featured``  the features of a frozen pretrained backbone, where the learner has one; the
                  ``sources`` then draw tasks of features.
    """

    recipe: Recipe
    data: Dataset
    sources: Sources
    learner: Learner
    featured: Featured | None = None

    @property
    def trained(self) -> Learner:
        """The learner for the tasks of ``sources``; it shares all parameters with ``learner``."""
        return self.learner if self.featured is None else on_features(self.learner)


def prepare(recipe: Recipe, classes: LabelledRows | None = None) -> Parts:
    """Everything that ``recipe`` describes; ValueError or OSError where it cannot be made.

    ``classes``  of a cross-validation, where they are loaded already.
    """
    device = choose_device(recipe.device)
    learner_options(recipe)  # mistakes in options are found before the data are loaded
    recipe = with_own_size(recipe)
    data = load_data(recipe, classes)
    usual, recipe = recipe, recipe.complete(limits(recipe, data))
    if remark := fitted(usual, recipe, data):
        warnings.warn(remark, stacklevel=2)
    learner = make_learner(recipe, tuple(data.train.inputs.shape[1:]))
    recipe = _with_steps(usual, recipe, learner)
    if recipe.folds and not recipe.fold:  # what cannot run is found before the first fold is run
        for fold in range(1, recipe.folds + 1):
            part = replace(recipe, fold=fold)
            make_sources(part, load_data(part, data.train), learner)
    sources = make_sources(recipe, data, learner)  # what they cannot draw is found at once
    learner.to(device)
    if not is_fixed(learner) or recipe.augment:
        return Parts(recipe, data, sources, learner)
    found = featured(data, backbone_of(learner), _used_splits(recipe, learner))
    sources = make_sources(recipe, found.features, learner)
    return Parts(recipe, data, sources, learner, found)


def _with_steps(usual: Recipe, recipe: Recipe, learner: Learner) -> Recipe:
    """``recipe`` with 0 steps where ``learner`` has nothing to train; ValueError if it asks for."""
    if any(parameter.requires_grad for parameter in learner.parameters()):
        return recipe
    if usual.steps:
        pretrained = source_of(backbone_of(learner)) is not None
        why = (
            f"the weights of {recipe.backbone} are pretrained and stay as they are"
            if pretrained
            else "it learns every task of a run from its support set alone"
        )
        raise ValueError(
            f"steps: {recipe.learner} has nothing to train, since {why}; found {usual.steps}. "
            f"Leave steps out, or take another learner{' or backbone' if pretrained else ''}."
        )
    return replace(recipe, steps=0)


def _used_splits(recipe: Recipe, learner: Learner) -> tuple[str, ...]:
    """The splits of which a run computes features."""
    if recipe.steps or is_centred(learner):
        return ("train", "val", "test")
    return ("test",)


def is_centred(learner: Learner) -> bool:
    """Whether ``learner`` subtracts the mean feature vector of the training classes."""
    return isinstance(learner, SimpleShot) and learner.centred


def load_data(recipe: Recipe, classes: LabelledRows | None = None) -> Dataset:
    """The recipe's data set; of a cross-validation, the part of its fold.

    ``classes``  of a cross-validation, where they are loaded already.

    Where the recipe has folds, but no fold, all classes are training classes.
    """
    if card(recipe.data).texts:
        raise ValueError(
            f"run: {recipe.data} has texts, but runs are on pictures or arrays. Give texts of your "
            "own by --data text --root FILE, or use them in Python as docs/text.md shows."
        )
    if recipe.folds:
        return _load_fold(recipe, recipe.folds, classes)
    takes_ways = "ways" in card(recipe.data).options
    return datasets.load(
        recipe.data, recipe.root, split=recipe.split, size=recipe.size,
        rotations=recipe.rotations, strict=recipe.strict, fractions=recipe.fractions,
        split_seed=recipe.split_seed, ways=recipe.ways if takes_ways else None,
    )  # fmt: skip


def _load_fold(recipe: Recipe, folds: int, classes: LabelledRows | None) -> Dataset:
    if classes is None:
        classes = datasets.load_classes(
            recipe.data, recipe.root, size=recipe.size, strict=recipe.strict
        )
    parts = list(class_folds(classes, folds, recipe.split_seed or 0))
    none = classes.without_classes()
    train, test = parts[recipe.fold - 1] if recipe.fold else (classes, none)
    return Dataset(card(recipe.data), train, none, test)


def make_sources(recipe: Recipe, data: Dataset, learner: Learner) -> Sources:
    """Sources of training, validation and test tasks.

    Validation tasks are as large as test tasks, or have as many ways as validation classes.
    Only training images are augmented. Support rows are in random order for a ``learner`` that
    reads them as a sequence.

    Raises ValueError, naming the split, where a split has too few classes or rows.
    """
    budget = recipe.budget(limits(recipe, data))
    shuffled = recipe.shuffled or reads_a_sequence(learner)
    val_ways = min(budget.ways, len(data.val))
    return Sources(
        train=_source(recipe, data, "train", budget.train_ways, budget.train_queries, shuffled),
        val=_source(recipe, data, "val", val_ways, budget.queries, shuffled) if val_ways else None,
        test=make_test_source(recipe, data, learner) if len(data.test) else None,
    )


def make_test_source(recipe: Recipe, data: Dataset, learner: Learner) -> Episodes:
    """Tasks of the recipe's ways, shots and queries from the test classes.

    Raises ValueError where there are none, because the learner was trained on all classes.
    """
    if not len(data.test):
        raise ValueError(
            f"{recipe.data}: the learner was trained on all classes, so none is left for a test. "
            "Evaluate one of the folds, in the folders fold-1, fold-2 and so on of the run."
        )
    budget = recipe.budget(limits(recipe, data))
    shuffled = recipe.shuffled or reads_a_sequence(learner)
    return _source(recipe, data, "test", budget.ways, budget.queries, shuffled)


def _source(
    recipe: Recipe, data: Dataset, split: str, ways: int, queries: int, shuffled: bool
) -> Episodes:
    classes = data.splits[split]
    chosen = recipe.within_superclass or data.within_superclass
    within = classes.superclasses if chosen else None
    if recipe.within_superclass and within is None:
        raise ValueError(
            f"within_superclass: the classes of {recipe.data} have no superclasses. Leave it out."
        )
    where, hint = f"{recipe.data}, {split} classes", ""
    augment = recipe.augment if split == "train" else None
    if split == "train":
        hint = " For training tasks, these are train_ways and train_queries."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            made = episodes(
                classes, ways, recipe.shots, queries, shuffled=shuffled, within=within,
                augment=augment,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{where}: {error}{hint}") from error
    for warning in told:
        warnings.warn(f"{where}: {warning.message}{hint}", warning.category, stacklevel=3)
    return made


def make_learner(recipe: Recipe, inputs: tuple[int, ...]) -> Learner:
    """The recipe's learner for inputs of one shape; its seed alone decides the initial weights."""
    cls = resolve("learner", recipe.learner, LEARNERS)
    options = learner_options(recipe)
    budget = recipe.budget()
    outputs = max(budget.ways, budget.train_ways)
    parameters = inspect.signature(cls).parameters
    if "outputs" in parameters:  # it takes labels as inputs, or has its own head
        options = {"outputs": outputs} | options
        if options["outputs"] < outputs:
            raise ValueError(
                f"option outputs of {recipe.learner}: must be at least {outputs}, the most ways of "
                f"a task; found {options['outputs']}. Raise it, or leave it out."
            )
    if "length" in parameters:  # of a sequence: the support rows of the largest task, and one query
        options = {"length": outputs * recipe.shots + 1} | options
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        learner: Learner = cls(_backbone(recipe, inputs, outputs), **options)
    return learner


def learner_options(recipe: Recipe) -> dict[str, Any]:
    """The recipe's options as arguments of the learner; ValueError for a wrong name or type."""
    cls = resolve("learner", recipe.learner, LEARNERS)
    hints = get_type_hints(cls.__init__)
    valid = {name: hints[name] for name in inspect.signature(cls).parameters if name != "backbone"}
    choices = {
        **CHOICES,
        **{name: tuple(names) for name, names in LEARNERS[recipe.learner].choices.items()},
    }
    arguments = {}
    for name, value in recipe.options.items():
        if name not in valid:
            raise unknown_name(f"option of {recipe.learner}", str(name), valid)
        where = f"option {name} of {recipe.learner}"
        arguments[name] = _argument(where, name, value, valid[name], choices)
    return arguments


def _argument(where: str, name: str, value: Any, hint: Any, choices: Choices) -> Any:
    """``value`` as the type ``hint``, or the function or part that it names."""
    if name in choices:
        return _choice(where, value, choices[name])
    return checked(where, value, hint)


def _choice(where: str, value: Any, names: tuple[str, ...]) -> Any:
    """The function or part given by a name, or by a mapping of a name and settings."""
    settings = dict(value) if isinstance(value, dict) else {"name": value}
    name = str(settings.pop("name", None))
    chosen = resolve(where, name, {n: n for n in names})
    if name in FUNCTIONS:
        if settings:
            raise ValueError(f"{where}: {name} has no settings; found {shown(settings)}.")
        return chosen
    hints = get_type_hints(chosen.__init__)
    valid = {setting: hints[setting] for setting in inspect.signature(chosen).parameters}
    for setting in settings:
        if setting not in valid:
            raise unknown_name(f"setting of {name}", str(setting), valid)
    return chosen(**{
        s: _argument(f"{where}: {s}", s, v, valid[s], CHOICES) for s, v in settings.items()
    })  # fmt: skip


def _backbone(recipe: Recipe, inputs: tuple[int, ...], outputs: int) -> torch.nn.Module:
    if recipe.backbone not in BACKBONES:
        return backbone_for(recipe, inputs)
    cls: Callable[..., torch.nn.Module] = resolve("backbone", recipe.backbone, BACKBONES)
    card = LEARNERS[recipe.learner]
    head = outputs if card.head else None
    if recipe.backbone == "mlp":
        return cls(math.prod(inputs), hidden=(256, 128), outputs=head)
    if len(inputs) != 3:
        raise ValueError(
            f"backbone: {recipe.backbone} takes images (channels, height, width), but inputs have "
            f"shape {inputs}. Use --backbone mlp."
        )
    if recipe.backbone == "resnet12":
        return cls(norm=recipe.norm, in_channels=inputs[0], outputs=head)
    maps = {"pools": 2, "flat": False} if card.maps else {}
    return cls(
        recipe.channels, recipe.norm, in_channels=inputs[0], image_size=inputs[-1], outputs=head,
        **maps,
    )  # fmt: skip
