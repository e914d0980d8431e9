"""Arguments of a wrong type: an error that names the argument, in place of one from deep inside."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from quickstudy.base.shown import shown

Function = TypeVar("Function", bound=Callable[..., Any])

_RAW = (TypeError, AttributeError, LookupError, RuntimeError)
"""Errors that a value of a wrong type causes where it is used."""

_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a string",
    NoneType: "None",
}  # fmt: skip


def typed(function: Function) -> Function:
    """``function``; where it fails since an argument is not of its annotated type, by a ValueError.

    The error names the argument, its type and what was found. Types are looked at only after a call
    has failed: whatever works, works as before, and costs nothing more.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except _RAW as error:
            if not (wrong := _wrong_argument(function, args, kwargs)):
                raise
            raise ValueError(wrong) from error

    return cast("Function", call)


class TypedConstructor:
    """A base whose subclasses have constructors that are :func:`typed`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = typed(cls.__init__)  # type: ignore[method-assign]


def _wrong_argument(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What is wrong with the first argument that is not of its annotated type; "" where all are."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        hints = get_type_hints(function)
    except (TypeError, NameError):  # Python's own error says what is missing or unknown
        return ""
    who = function.__name__
    if who == "__init__":
        who = type(args[0]).__name__
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            return f"{who}: {name} must be {_words(hints[name])}; found {shown(value)}."
    return ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``; True for a hint that cannot be checked."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    try:
        if not isinstance(value, kind):
            return False
    except TypeError:  # a protocol that cannot be asked
        return True
    if kind in (Sequence, list, tuple) and len({*parts} - {...}) == 1:
        return not isinstance(value, str) and all(
            _fits(each, parts[0]) for each in cast("Any", value)
        )
    return True


def _words(hint: Any) -> str:
    """The type in words: "a number", "a whole number or None"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    kind = origin or hint
    if kind in _WORDS:
        return _WORDS[kind]
    if kind is Callable:
        return "a function"
    if kind in (Sequence, list, tuple) and parts:
        return f"a sequence, each {_words(parts[0])}"
    if kind is Mapping or kind is dict:
        return "a mapping"
    name = str(getattr(kind, "__name__", kind))
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
