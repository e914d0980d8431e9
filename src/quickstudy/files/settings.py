"""Settings of a learner whose code is the user's own: stored in a file, and compared on loading.

A file cannot rebuild such a learner. It is built by the same code again and given to ``load``,
which must notice where it differs: with another scale it would load, and predict something else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

_SHOWN = 5
"""How many differences an error lists."""

_LONGEST, _DEEPEST = 1_000, 8
"""Longer and deeper containers are data, of which only the length is compared."""

_NO_SETTINGS = {"training", "progress"}
"""Attributes that training changes: a module's mode, and the progress of a ``Scheduled`` one."""


def settings_of(learner: nn.Module) -> dict[str, dict[str, Any]]:
    """The class of each module inside, and its settings, by name: JSON.

    Settings are public attributes that are numbers, text, functions, frozen dataclasses, or lists
    and dicts of these. Functions are described by their names.
    """
    modules: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for path, module in learner.named_modules():
        modules[path] = type(module).__qualname__
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or attribute in _NO_SETTINGS:
                continue
            values.update(_described(value, f"{path}.{attribute}" if path else attribute))
    return {"modules": modules, "values": values}


def refuse_other_settings(saved: Mapping[str, Mapping[str, Any]], learner: nn.Module) -> None:
    """ValueError that lists where the settings of ``learner`` are not the ``saved`` ones.

    A setting that only one of them has is no difference: versions of libraries add some.
    """
    own = settings_of(learner)
    differences = [
        f"{name or 'it'} is a {saved['modules'].get(name, 'nothing')} in the file, but a "
        f"{own['modules'].get(name, 'nothing')} here"
        for name in {**saved["modules"], **own["modules"]}
        if saved["modules"].get(name) != own["modules"].get(name)
    ]
    differences += [
        f"{name}={_short(value)} in the file, but {_short(own['values'][name])} here"
        for name, value in saved["values"].items()
        if name in own["values"] and not _equal(value, own["values"][name])
    ]
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
        yield f"len({name})", len(value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = (
            [(f"{name}[{key!r}]", item) for key, item in items] if len(value) <= _LONGEST else ()
        )
    elif isinstance(value, functools.partial):
        parts = [(name, part) for part in (value.func, value.args, value.keywords)]
    elif inspect.isroutine(value) or isinstance(value, type):
        yield name, value.__name__
    elif is_dataclass(value):
        yield name, type(value).__name__
        parts = [(f"{name}.{field.name}", getattr(value, field.name)) for field in fields(value)]
    if depth < _DEEPEST:
        for each, part in parts:
            yield from _described(part, each, depth + 1)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))  # NaN is equal to nothing


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
