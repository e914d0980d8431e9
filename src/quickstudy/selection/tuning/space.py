"""The settings that tuning tries, and how Optuna is told of them.

A setting is called ``rate``, the learning rate of training, or ``options.NAME``, an argument of the
learner's constructor. Its values stand on the learner's card, or are the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from quickstudy.base.shown import shown
from quickstudy.core import Learner
from quickstudy.files.registry import FUNCTIONS, PARTS, describe, resolve
from quickstudy.learners.cards import Card, Range, Space

RATE = "rate"
_OPTIONS = "options."


def option(name: str) -> str:
    """What the argument ``name`` of a constructor is called among the settings."""
    return _OPTIONS + name


def options_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor among ``settings``, under their own names."""
    return {
        name.removeprefix(_OPTIONS): value
        for name, value in settings.items()
        if name.startswith(_OPTIONS)
    }


def space_on(card: Card) -> dict[str, Space]:
    """The settings on a learner's card with their values."""
    return {
        **dict(card.search),
        **{option(name): values for name, values in card.search_options.items()},
    }


def as_space(name: str, values: Any) -> Space:
    """A :class:`Range`, or a tuple of at least two different values; else ValueError."""
    if isinstance(values, Range):
        if not values.low < values.high or (values.log and values.low <= 0):
            raise ValueError(
                f"tune: the range of {name} must go from a lower to a higher number, both positive "
                f"with log=True; found {shown(values)}."
            )
        return values
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"tune: the values of {name} must be a list or a qs.Range; found {shown(values)}."
        )
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    if not plain or not values or len(set(map(repr, values))) < len(values):
        raise ValueError(
            f"tune: the values of {name} must be different numbers, texts, True, False or None; "
            f"found {shown(values)}."
        )
    return tuple(values)


def in_space(value: Any, space: Space) -> bool:
    """Whether ``value`` is one that may be tried."""
    if not isinstance(space, Range):
        return any(value == each and type(value) is type(each) for each in space)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return space.low <= value <= space.high and (_is_whole(space) <= (value == int(value)))


def suggest(trial: Any, name: str, space: Space) -> Any:
    """A value for the trial of Optuna from ``space``."""
    if not isinstance(space, Range):
        return trial.suggest_categorical(name, space)
    kind = trial.suggest_int if _is_whole(space) else trial.suggest_float
    return kind(name, space.low, space.high, log=space.log)


def _is_whole(space: Range) -> bool:
    return isinstance(space.low, int) and isinstance(space.high, int)


def as_arguments(options: Mapping[str, Any], card: Card | None) -> dict[str, Any]:
    """``options`` with the functions and parts that the card's names stand for."""
    choices = card.choices if card else {}
    return {
        name: _named(name, value) if name in choices and isinstance(value, str) else value
        for name, value in options.items()
    }


def _named(argument: str, name: str) -> Any:
    chosen = resolve(f"value of {argument}", name, {**FUNCTIONS, **PARTS})
    return chosen() if name in PARTS else chosen


def usual_values(learner: Learner, space: Mapping[str, Space], rate: float) -> dict[str, Any]:
    """The settings with which ``learner`` was made, where they are in ``space``."""
    held = {RATE: rate}
    for name in options_of(space):
        value = getattr(learner, name, None)
        held[option(name)] = _name_of(value)
    return {name: held[name] for name, values in space.items() if in_space(held[name], values)}


def _name_of(value: Any) -> Any:
    """The name of a registered function or part without settings; other values as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        described = describe(value)
    except ValueError:  # code of the user's own
        return value
    named = described if isinstance(described, dict) else {}
    return named.get("function", named.get("name", value))


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as text, such as "rate 0.00123, options.steps 5"."""
    return ", ".join(f"{name} {_short(value)}" for name, value in settings.items())


def space_in_words(space: Space) -> str:
    """A space as text, such as "0.0003 to 0.003 (logarithmic)" or "1, 3, 5"."""
    if isinstance(space, Range):
        return f"{space.low:g} to {space.high:g}{' (logarithmic)' if space.log else ''}"
    return ", ".join(map(str, space))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
