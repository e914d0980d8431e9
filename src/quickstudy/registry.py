"""Names of what can be built: learners, backbones, and the functions they are given.

Importing this module imports no torch, so that the command line lists names at once. Only what
stands here is ever built from a file or a command line: a loaded name cannot run foreign code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class LearnerCard:
    """What is known of a learner before it is imported."""

    name: str
    title: str
    family: str
    year: int
    paper: str
    learns: str
    target: str
    answers: bool = False
    """Whether its backbone ends in a head of the task's outputs, instead of giving features."""


LEARNERS = {
    card.name: card
    for card in (
        LearnerCard(
            "prototypical", "Prototypical Networks", "metric", 2017, "Snell, Swersky and Zemel",
            "a feature space in which class means classify",
            "quickstudy.learners.metric.prototypical:Prototypical",
        ),
        LearnerCard(
            "maml", "MAML", "gradient", 2017, "Finn, Abbeel and Levine",
            "an initialisation that a few gradient steps adapt",
            "quickstudy.learners.gradient.maml:MAML", answers=True,
        ),
        LearnerCard(
            "linear_probe", "Linear probe", "transfer", 2016, "Alain and Bengio",
            "features on which a closed-form linear head classifies",
            "quickstudy.learners.transfer.linear_probe:LinearProbe",
        ),
    )
}  # fmt: skip

BACKBONES = {
    "conv4": "quickstudy.backbones.conv4:Conv4",
    "resnet12": "quickstudy.backbones.resnet12:ResNet12",
    "mlp": "quickstudy.backbones.mlp:MLP",
}

FUNCTIONS = {
    "squared_euclidean": "quickstudy.learners.metric.distances:squared_euclidean",
    "cosine": "quickstudy.learners.metric.distances:cosine",
    "sgd": "quickstudy.learners.gradient.descend:sgd",
    "ridge": "quickstudy.learners.transfer.heads:ridge",
    "logistic": "quickstudy.learners.transfer.heads:logistic",
    "cross_entropy": "quickstudy.tasks.examples:cross_entropy",
    "squared_error": "quickstudy.tasks.examples:squared_error",
}

PARTS = {
    "momentum": "quickstudy.learners.gradient.descend:Momentum",
    "adam": "quickstudy.learners.gradient.descend:Adam",
}
"""Small classes that learners are given, such as inner optimisers."""

_TARGETS = {name: card.target for name, card in LEARNERS.items()} | BACKBONES | FUNCTIONS | PARTS
_NAMES = {target: name for name, target in _TARGETS.items()}


def nearest(kind: str, name: str, valid: Mapping[str, Any]) -> ValueError:
    """The error for an unknown ``name``: it lists the valid ones, the closest first."""
    close = get_close_matches(name.lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return ValueError(f"{kind}: {name!r} is unknown. {hint}Valid names: {', '.join(valid)}.")


def resolve(kind: str, name: str, valid: Mapping[str, Any]) -> Any:
    """The class or function called ``name``; ValueError names the nearest valid ones."""
    if name not in valid:
        raise nearest(kind, name, valid)
    module, attribute = _TARGETS[name].split(":")
    return getattr(import_module(module), attribute)


def describe(thing: Any) -> Any:
    """A learner, backbone or function as JSON from which :func:`build` makes it again.

    Constructors keep their arguments as attributes of the same names, as scikit-learn's do.
    Raises ValueError for anything that is not in this registry, and for a module whose parts were
    changed after it was made, which no arguments tell of.
    """
    description = _describe(thing)
    if isinstance(description, dict) and "name" in description:
        rebuilt, found = repr(build_empty(description)).splitlines(), repr(thing).splitlines()
        if rebuilt != found:
            changed = next((line.strip() for line in found if line not in rebuilt), "its parts")
            raise ValueError(
                f"describe: this {type(thing).__name__} was changed after it was made ({changed}), "
                "so it cannot be rebuilt from a file. Keep the code that changes it, and give the "
                "learner when loading."
            )
    return description


def _describe(thing: Any) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [_describe(item) for item in thing]
    of = thing if inspect.isfunction(thing) else type(thing)
    name = _NAMES.get(f"{of.__module__}:{of.__qualname__}")
    if name is None:
        raise ValueError(
            f"describe: {of.__module__}.{of.__qualname__} is not one of quickstudy's own, so it "
            "cannot be rebuilt from a file. Keep the code that builds it, and give the learner "
            "when loading."
        )
    if inspect.isfunction(thing):
        return {"function": name}
    arguments = list(inspect.signature(of).parameters)
    return {"name": name, **{a: _describe(getattr(thing, a)) for a in arguments}}


def build(description: Any) -> Any:
    """What :func:`describe` described; parameters are freshly initialised.

    Raises ValueError for names that are not in this registry, and for arguments of another kind
    than the constructor says.
    """
    if isinstance(description, list):
        return tuple(build(item) for item in description)
    if not isinstance(description, dict):
        return description
    if "function" in description:
        return resolve("function", str(description["function"]), FUNCTIONS)
    arguments = {k: build(v) for k, v in description.items() if k != "name"}
    name = str(description.get("name"))
    of = resolve("build", name, {**LEARNERS, **BACKBONES, **PARTS})
    kinds = get_type_hints(of.__init__)
    for argument, value in arguments.items():
        if argument not in kinds or not _is_a(value, kinds[argument]):
            raise ValueError(f"build: {name} takes no {argument}={value!r}.")
    return of(**arguments)


def build_empty(description: Any) -> Any:
    """Like :func:`build`, with parameters of shape and type alone.

    Takes no memory, however large a file says that they are, and no random numbers.
    """
    import torch

    with torch.device("meta"):
        return build(description)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the annotated ``kind``, for those that constructors here use."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is Callable:
        return callable(value)
    if origin in (tuple, Sequence):
        return isinstance(value, tuple) and all(_is_a(item, parts[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)
