"""Names of what can be built: learners, backbones, and the functions that they take.

Importing this module does not import torch, so that the command line lists names at once. Files and
the command line can build only what is registered here: a loaded name cannot run foreign code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, get_type_hints

from quickstudy.base.names import unknown_name
from quickstudy.files.annotated import is_a
from quickstudy.files.sources import build_source, describe_source, empty_network, source_of
from quickstudy.learners.cards import cards


def _is_class(target: str) -> bool:
    """Whether "module:attribute" names a class (capitalised) rather than a function."""
    return target.split(":")[1][0].isupper()


LEARNERS = cards()
"""The learners' cards by name."""

BACKBONES = {
    "conv4": "quickstudy.backbones.conv4:Conv4",
    "resnet12": "quickstudy.backbones.resnet12:ResNet12",
    "mlp": "quickstudy.backbones.mlp:MLP",
}

_CARD_CHOICES = [
    named for card in LEARNERS.values() for choice in card.choices.values()
    for named in choice.items()
]  # fmt: skip

FUNCTIONS = {
    "sgd": "quickstudy.learners.gradient.descend:sgd",
} | {name: target for name, target in _CARD_CHOICES if not _is_class(target)}
"""Functions that learners take as arguments; functions of a single learner come from its card."""

PARTS = {
    "momentum": "quickstudy.learners.gradient.descend:Momentum",
    "adam": "quickstudy.learners.gradient.descend:Adam",
    "exact": "quickstudy.learners.gradient.meta_gradients:Exact",
    "first_order": "quickstudy.learners.gradient.meta_gradients:FirstOrder",
    "finite_difference": "quickstudy.learners.gradient.meta_gradients:FiniteDifference",
    "implicit": "quickstudy.learners.gradient.meta_gradients:Implicit",
    "annealed": "quickstudy.learners.gradient.meta_gradients:Annealed",
    "efficientnet_lite": "quickstudy.backbones.efficientnet_lite:EfficientNetLite",
    "features": "quickstudy.backbones.joined:Features",
    "with_head": "quickstudy.backbones.joined:WithHead",
    "chain": "quickstudy.backbones.joined:Chain",
    "low_rank": "quickstudy.backbones.low_rank:LowRank",
    "whitened": "quickstudy.backbones.whitened:Whitened",
    "position_cnn": "quickstudy.backbones.text.position_cnn:PositionCNN",
} | {name: target for name, target in _CARD_CHOICES if _is_class(target)}
"""Small classes that learners take as arguments: inner optimisers, kinds of meta-gradient, and
networks that no recipe names by themselves.
"""

_TARGETS: dict[str, str] = {}
for _name, _target in [
    *((card.name, card.target) for card in LEARNERS.values()),
    *BACKBONES.items(), *FUNCTIONS.items(), *PARTS.items(), *_CARD_CHOICES,
]:  # fmt: skip
    if _TARGETS.setdefault(_name, _target) != _target:
        raise ValueError(
            f"registry: names must be unique, but {_name!r} names both {_TARGETS[_name]} and "
            f"{_target}. Rename one of them."
        )
_NAMES = {target: name for name, target in _TARGETS.items()}


def resolve(kind: str, name: str, valid: Mapping[str, Any]) -> Any:
    """The class or function called ``name``; else ValueError with the nearest valid names."""
    if name not in valid:
        raise unknown_name(kind, name, valid)
    module, attribute = _TARGETS[name].split(":")
    return getattr(import_module(module), attribute)


class OwnCodeError(ValueError):
    """A learner, or a part of it, has code of the user's own, which a file cannot name."""


def describe(thing: Any, tensors: Iterable[Any] = ()) -> Any:
    """A learner, backbone or function as JSON from which :func:`build` makes it again.

    Constructors keep their arguments as attributes of the same names, as scikit-learn's do. Frozen
    parameters (``requires_grad=False``) are listed under "frozen". A backbone lists those that were
    frozen when its gradient learner was made, because they do not adapt; a learner lists those that
    are frozen now, where the backbone's list does not already give them. Modules that
    :func:`quickstudy.frozen` keeps in evaluation mode are listed under "evaluating".

    ``tensors``  those that a file will hold beside the tensors of ``thing``.

    Raises :class:`OwnCodeError` for anything that is not in this registry, and for a module whose
    parts were changed after it was made, which its arguments do not show. Raises ValueError for
    numbers that a file may not ask for (:mod:`quickstudy.files.limits`).
    """
    description = _describe(thing)
    if isinstance(description, dict) and "name" in description:
        held = [*getattr(thing, "state_dict", dict)().values(), *tensors]
        rebuilt = build_empty(description, held)
        if _adapted(rebuilt) != _adapted(thing):
            description["backbone"]["frozen"] = _not_adapted(thing, rebuilt)
            rebuilt = build_empty(description, held)
        _refuse_changed(thing, rebuilt)
        if _frozen(thing) != _frozen(rebuilt):
            description["frozen"] = _frozen(thing)
        if names := _evaluating(thing):
            description["evaluating"] = names
    return description


def _describe(thing: Any) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if (source := source_of(thing)) is not None:
        return describe_source(source)
    if isinstance(thing, (list, tuple)):
        return [_describe(item) for item in thing]
    if isinstance(thing, dict):  # in a list, whose order JSON keeps, and where no key has a meaning
        return {"mapping": [[key, _describe(value)] for key, value in thing.items()]}
    cls = thing if inspect.isfunction(thing) else type(thing)
    name = _NAMES.get(f"{cls.__module__}:{cls.__qualname__}")
    if name is None:
        raise OwnCodeError(
            f"describe: {cls.__module__}.{cls.__qualname__} is not part of quickstudy, so it "
            "cannot be rebuilt from a file. Keep the code that builds it, and give the learner "
            "when loading."
        )
    if inspect.isfunction(thing):
        return {"function": name}
    arguments = list(inspect.signature(cls).parameters)
    return {"name": name, **{a: _describe(getattr(thing, a)) for a in arguments}}


def _adapted(thing: Any) -> set[str]:
    """Names of the parameters that a gradient learner adapts; empty for anything else."""
    return set(getattr(thing, "adapted", ()))


def _not_adapted(thing: Any, rebuilt: Any) -> list[str]:
    """Backbone parameters that adapt in ``rebuilt``, where none are frozen, but not in ``thing``.

    These were frozen when ``thing`` was made.
    """
    network = dict(thing.adapted_network.named_parameters())
    parameters = {id(network[name]) for name in _adapted(rebuilt) - _adapted(thing)}
    return [name for name, p in thing.backbone.named_parameters() if id(p) in parameters]


def _frozen(thing: Any) -> list[str]:
    """Names of the frozen parameters of a module; empty for anything else."""
    if not hasattr(thing, "named_parameters"):
        return []
    return [name for name, p in thing.named_parameters() if not p.requires_grad]


def _evaluating(thing: Any) -> list[str]:
    """Names of the modules that stay in evaluation mode; empty for anything else."""
    from quickstudy.base.frozen import frozen_names

    return frozen_names(thing) if hasattr(thing, "named_children") else []


def _refuse_changed(thing: Any, rebuilt: Any) -> None:
    """OwnCodeError where ``rebuilt``, made from arguments alone, has other parts than ``thing``."""
    expected, found = _parts(rebuilt), _parts(thing)
    if expected != found:
        changed = next((part for part in found if part not in expected), "its parts")
        raise OwnCodeError(
            f"describe: this {type(thing).__name__} was changed after it was made ({changed}), "
            "so it cannot be rebuilt from a file. Keep the code that changes it, and give the "
            "learner when loading."
        )


def _parts(thing: Any) -> list[str]:
    """The modules inside ``thing`` as text, and the shapes of its parameters and buffers."""
    lines = [line.strip() for line in repr(thing).splitlines()]
    # Parameters directly in a list are shown with their dtype and device, which may have been
    # changed since, so their shapes are compared instead.
    modules = [line for line in lines if "Parameter containing" not in line]
    state = thing.state_dict() if hasattr(thing, "state_dict") else {}
    return [*modules, *(f"{name} of shape {tuple(t.shape)}" for name, t in state.items())]


def build(description: Any) -> Any:
    """What :func:`describe` described; parameters are freshly initialised.

    Raises ValueError for names that are not in this registry, and for arguments of another type
    than the constructor's annotation.
    """
    if isinstance(description, list):
        return tuple(build(item) for item in description)
    if not isinstance(description, dict):
        return description
    if "function" in description:
        return resolve("function", str(description["function"]), FUNCTIONS)
    if "mapping" in description:
        return _mapping(description["mapping"])
    if "pretrained" in description:
        return _with_states(description["pretrained"], build_source(description), description)
    arguments = {k: build(v) for k, v in description.items() if k not in _STATES}
    name = str(description.get("name"))
    cls = resolve("build", name, {**LEARNERS, **BACKBONES, **PARTS})
    annotations = get_type_hints(cls.__init__)
    for argument, value in arguments.items():
        if argument not in annotations or not is_a(value, annotations[argument]):
            raise ValueError(f"build: {name} takes no {argument}={value!r}.")
    return _with_states(name, cls(**arguments), description)


def _mapping(pairs: Any) -> dict[str, Any]:
    """The dict of ``pairs`` (text, value); ValueError for anything else, and for a repeated key."""
    lists = isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs)
    keys = [pair[0] for pair in pairs] if lists else [None]
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError(f"build: a mapping must be pairs of a text of its own and a value; {keys}")
    return {key: build(value) for key, value in pairs}


_STATES = ("name", "frozen", "evaluating")
"""What a description holds beside the constructor's arguments."""


def _with_states(name: Any, built: Any, description: Mapping[str, Any]) -> Any:
    """``built``, with its parameters frozen and its modules evaluating as ``description`` says."""
    if "frozen" in description:
        _freeze(name, built, description["frozen"])
    if "evaluating" in description:
        _keep_in_evaluation_mode(name, built, description["evaluating"])
    return built


def _keep_in_evaluation_mode(name: str, module: Any, names: Any) -> None:
    from quickstudy.base.frozen import keep_in_evaluation_mode

    parts = dict(module.named_modules()) if hasattr(module, "named_modules") else {}
    if not isinstance(names, list) or not all(each in parts for each in names):
        raise ValueError(f"build: {name} has no such modules to freeze: {names!r}.")
    for each in names:
        keep_in_evaluation_mode(parts[each])


def _freeze(name: str, module: Any, frozen: Any) -> None:
    """Freeze the parameters listed, and no others."""
    parameters = dict(module.named_parameters()) if hasattr(module, "named_parameters") else {}
    if not isinstance(frozen, list) or not all(each in parameters for each in frozen):
        raise ValueError(f"build: {name} has no such parameters to freeze: {frozen!r}.")
    for each, parameter in parameters.items():
        parameter.requires_grad_(each not in frozen)


def build_empty(description: Any, tensors: Iterable[Any]) -> Any:
    """Like :func:`build`, but with parameters on the "meta" device, without values.

    ``tensors``  those of the file that has the description. ValueError for one that asks for more
                 than they are (:mod:`quickstudy.files.limits`).

    Uses no memory, however large the sizes in a file are, and no random numbers.
    """
    import torch

    from quickstudy.files.limits import BoundedCalls, check_numbers

    tensors = list(tensors)
    check_numbers(description, tensors)
    description = _with_networks(description)  # outside: they are made of a package's files
    with torch.device("meta"), BoundedCalls(len(tensors)):
        return build(description)


def _with_networks(description: Any) -> Any:
    """``description`` with every pretrained network in it built, without numbers."""
    if isinstance(description, list):
        return [_with_networks(item) for item in description]
    if not isinstance(description, dict):
        return description
    if "pretrained" in description:
        return _with_states(description["pretrained"], empty_network(description), description)
    return {key: _with_networks(value) for key, value in description.items()}
