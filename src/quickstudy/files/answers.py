"""Answers as JSON: how a file describes the answer that a predictor was made for."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from quickstudy.answers import (
    Actions,
    Boxes,
    Classes,
    Custom,
    Labels,
    Pixels,
    Reals,
    Tokens,
    World,
)
from quickstudy.core import Answer
from quickstudy.tasks.bandits import Bandit

ANSWERS: dict[str, type[Any]] = {
    kind.kind: kind for kind in (Classes, Reals, Labels, Pixels, Tokens, Boxes, Actions)
}
WORLDS: dict[str, type[Any]] = {"bandit": Bandit}
"""Parts of answers that are frozen dataclasses too."""

_NAMES = {kind: name for name, kind in (ANSWERS | WORLDS).items()}


def describe_answer(answer: Any) -> dict[str, Any]:
    """The answer as JSON from which :func:`build_answer` makes it again.

    An answer with the user's own functions (:func:`quickstudy.spec`), or of the user's own class,
    is described by its kind alone, "custom".
    """
    name = _NAMES.get(type(answer))
    if name is None:
        return {"kind": Custom.kind}
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    parts = {n: describe_answer(v) if is_dataclass(v) else v for n, v in values.items()}
    return {"kind": name, **parts}


def build_answer(description: Any) -> Answer | None:
    """The answer that :func:`describe_answer` described; None for one with the user's own code.

    Raises ValueError for an unknown kind and for values of a wrong type.
    """
    if isinstance(description, dict) and description.get("kind") == Custom.kind:
        return None
    answer = _build(description)
    assert isinstance(answer, Answer)
    return answer


def _build(description: Any, known: dict[str, type[Any]] = ANSWERS) -> Any:
    values = dict(description) if isinstance(description, dict) else {}
    kind = known.get(str(values.pop("kind", None)))
    if kind is None or set(values) != {field.name for field in fields(kind)}:
        raise ValueError(f"its answer is {description!r}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if hints[name] is World:
            values[name] = _build(value, WORLDS)
        elif not isinstance(value, hints[name]) or isinstance(value, bool) != (hints[name] is bool):
            raise ValueError(f"its answer is {description!r}")
    return kind(**values)
