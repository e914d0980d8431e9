"""Settings of a learner whose code is the user's own: stored in a file, and compared on loading.

A file cannot rebuild such a learner. It is built by the same code again and given to ``load``,
which must notice where it differs: with another scale it would load, and predict something else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.base.modules import raw_bytes

_SHOWN = 5
"""How many differences an error lists."""

_LONGEST, _DEEPEST = 1_000, 4
"""Longer and deeper containers are data, of which only the length is compared."""

_NO_SETTINGS = {"training", "progress"}
"""Attributes that training changes: a module's mode, and the progress of a ``Scheduled`` one."""


def settings_of(learner: nn.Module) -> dict[str, dict[str, Any]]:
    """The class of each module inside, and its settings, by name: JSON.

    Settings are attributes that are numbers, text, arrays and tensors, functions, plain
    objects, or lists, sets and dicts of these, and buffers that are not saved. Functions are
    described by their names and what they close over, arrays by a digest. Private attributes count
    where they are numbers or text and the class is the user's own.
    """
    modules: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for path, module in learner.named_modules():
        modules[path] = type(module).__qualname__
        for attribute, value in vars(module).items():
            if attribute.startswith("_") and not _is_private_setting(module, attribute, value):
                continue
            if attribute in _NO_SETTINGS or _is_computed(module, attribute, value):
                continue
            values.update(_described(value, f"{path}.{attribute}" if path else attribute))
        for name in module._non_persistent_buffers_set:
            values.update(_described(module._buffers.get(name), f"{path}.{name}".strip(".")))
    return {"modules": modules, "values": values}


def outside_of(
    settings: dict[str, dict[str, Any]], paths: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """``settings`` without those of the modules inside of the ones at ``paths``, and of these."""
    inside = tuple(f"{path}." for path in paths)

    def outside(name: str) -> bool:
        return not f"{name.removeprefix('len(')}.".startswith(inside)

    return {
        kind: {name: value for name, value in found.items() if outside(name)}
        for kind, found in settings.items()
    }


def refuse_other_settings(
    saved: Mapping[str, Mapping[str, Any]], learner: nn.Module, without: Iterable[str] = ()
) -> None:
    """ValueError that lists where the settings of ``learner`` are not the ``saved`` ones.

    ``without``  paths of modules that were left out when saved, see :func:`outside_of`.

    A setting that only one of them has is no difference: versions of libraries add some. Private
    attributes that differ are told in a warning, since they may be counters instead of settings.
    """
    own = outside_of(settings_of(learner), without)
    differences = [
        f"{name or 'it'} is a {saved['modules'].get(name, 'nothing')} in the file, but a "
        f"{own['modules'].get(name, 'nothing')} here"
        for name in {**saved["modules"], **own["modules"]}
        if saved["modules"].get(name) != own["modules"].get(name)
    ]
    private: list[str] = []
    for name, value in saved["values"].items():
        if name in own["values"] and not _equal(value, own["values"][name]):
            found = differences if "._" not in f".{name}" else private
            found.append(
                f"{name}={_short(value)} in the file, but {_short(own['values'][name])} here"
            )
    if private:
        warnings.warn(
            f"load: private attributes differ from those of the saved learner: "
            f"{'; '.join(private[:_SHOWN])}. If they are settings, build the learner as the saved "
            "one was.",
            stacklevel=5,
        )
    if differences:
        more = f", and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(
            f"its settings are not those of the saved learner: "
            f"{'; '.join(differences[:_SHOWN])}{more}"
        )


def _described(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Pairs of a name and a JSON scalar; none for a value of another kind."""
    parts: Iterable[tuple[str, Any]] = ()
    if value is None or isinstance(value, (bool, int, float, str)):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        yield name, "dict" if isinstance(value, dict) else "list"
        yield f"len({name})", len(value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = (
            [(f"{name}[{key!r}]", item) for key, item in items] if len(value) <= _LONGEST else ()
        )
    elif isinstance(value, (set, frozenset)):
        plain = all(isinstance(each, (int, float, str)) for each in value)
        yield name, str(sorted(map(repr, value))) if plain and len(value) <= _LONGEST else "set"
    elif isinstance(value, torch.dtype):
        yield name, str(value)
    elif _is_array(value):
        yield name, _digest(value)
    elif isinstance(value, functools.partial):
        yield from _described(value.func, name, depth)
        parts = [(f"{name}.args", value.args), (f"{name}.keywords", value.keywords)]
    elif inspect.isroutine(value) or isinstance(value, type):
        yield name, value.__name__
        parts = _closed_over(value, name)
    elif not isinstance(value, nn.Module | Tensor | ModuleType | MethodType) and _is_own(value):
        yield name, type(value).__name__
        parts = [(f"{name}.{each}", part) for each, part in _attributes(value)]
    if depth < _DEEPEST:
        for each, part in parts:
            yield from _described(part, each, depth + 1)


def _is_array(value: Any) -> bool:
    """Whether it is an array or tensor of numbers in memory."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not (value.is_meta or value.is_quantized)
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


def _closed_over(function: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What a function written in Python closes over, and its defaults."""
    if isinstance(function, FunctionType):
        names, cells = function.__code__.co_freevars, function.__closure__ or ()
        for variable, cell in zip(names, cells, strict=True):
            with contextlib.suppress(ValueError):  # not assigned yet
                yield f"{name}.{variable}", cell.cell_contents
        yield f"{name}.defaults", [function.__defaults__, function.__kwdefaults__]


def _is_own(value: Any) -> bool:
    """Whether it is no object of torch's own, whose attributes may change with use."""
    return not type(value).__module__.startswith("torch")


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The public attributes of a plain object."""
    if is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        named = getattr(value, "__dict__", {}).items()
        yield from ((name, part) for name, part in named if not str(name).startswith("_"))


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _is_private_setting(module: nn.Module, attribute: str, value: Any) -> bool:
    """Whether a private attribute is a number or text in a class of the user's own."""
    plain = isinstance(value, (bool, int, float, str)) and attribute not in _OF_EVERY_MODULE
    foreign = type(module).__module__.startswith(("torch", "quickstudy"))
    return plain and not foreign and not attribute.startswith("_quickstudy")


def _is_computed(module: nn.Module, attribute: str, value: Any) -> bool:
    """Whether a tensor was computed from parameters, as weight norm does from ``weight_g``."""
    if not isinstance(value, Tensor):
        return False
    sources = (*module._parameters, *module._buffers)
    return value.requires_grad or any(name.startswith(f"{attribute}_") for name in sources)


def _digest(array: Any) -> str:
    """Type, shape and a digest of the numbers of an array or a tensor."""
    content = raw_bytes(array) if isinstance(array, Tensor) else array.tobytes()
    kind = f"{array.dtype} {tuple(array.shape)}"
    return f"{kind} {hashlib.sha256(content).hexdigest()[:16]}"


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # NaN is equal to nothing


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
