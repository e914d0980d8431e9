"""Names of what can be built: learners, backbones, and the functions they are given.

Importing this module imports no torch, so that the command line lists names at once. Only what
stands here is ever built from a file or a command line: a loaded name cannot run foreign code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from quickstudy.base.names import unknown_name
from quickstudy.learners.cards import cards


def _is_a_class(target: str) -> bool:
    """Whether "module:attribute" names a class, which is capitalised, and not a function."""
    return target.split(":")[1][0].isupper()


LEARNERS = cards()
"""The learners' cards by name; each lies beside its class."""

BACKBONES = {
    "conv4": "quickstudy.backbones.conv4:Conv4",
    "resnet12": "quickstudy.backbones.resnet12:ResNet12",
    "mlp": "quickstudy.backbones.mlp:MLP",
}

_OF_CARDS = [
    named for card in LEARNERS.values() for choice in card.choices.values()
    for named in choice.items()
]  # fmt: skip

FUNCTIONS = {
    "sgd": "quickstudy.learners.gradient.descend:sgd",
} | {name: target for name, target in _OF_CARDS if not _is_a_class(target)}
"""Functions that learners are given: those of many, and those of one, which its card names."""

PARTS = {
    "momentum": "quickstudy.learners.gradient.descend:Momentum",
    "adam": "quickstudy.learners.gradient.descend:Adam",
    "exact": "quickstudy.learners.gradient.meta_gradients:Exact",
    "first_order": "quickstudy.learners.gradient.meta_gradients:FirstOrder",
    "finite_difference": "quickstudy.learners.gradient.meta_gradients:FiniteDifference",
    "implicit": "quickstudy.learners.gradient.meta_gradients:Implicit",
    "annealed": "quickstudy.learners.gradient.meta_gradients:Annealed",
} | {name: target for name, target in _OF_CARDS if _is_a_class(target)}
"""Small classes that learners are given: inner optimisers, ways of the meta-gradient."""

_TARGETS: dict[str, str] = {}
for _name, _target in [
    *((card.name, card.target) for card in LEARNERS.values()),
    *BACKBONES.items(), *FUNCTIONS.items(), *PARTS.items(), *_OF_CARDS,
]:  # fmt: skip
    if _TARGETS.setdefault(_name, _target) != _target:
        raise ValueError(
            f"registry: a name stands for one thing, but {_name!r} for {_TARGETS[_name]} and "
            f"{_target}. Rename one of them."
        )
_NAMES = {target: name for name, target in _TARGETS.items()}


def resolve(kind: str, name: str, valid: Mapping[str, Any]) -> Any:
    """The class or function called ``name``; ValueError names the nearest valid ones."""
    if name not in valid:
        raise unknown_name(kind, name, valid)
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
