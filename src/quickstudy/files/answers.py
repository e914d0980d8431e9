"""Answers by name: what a file may say of the answer that a predictor was made for."""

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
"""Static parts of answers, themselves frozen dataclasses."""

_NAMES = {kind: name for name, kind in (ANSWERS | WORLDS).items()}


def describe_answer(answer: Any) -> dict[str, Any]:
    """As JSON from which :func:`build_answer` makes it again.

    Of one with functions of the user's own (:func:`quickstudy.spec`), or of a class of the user's
    own, only that it is so.
    """
    name = _NAMES.get(type(answer))
    if name is None:
        return {"kind": Custom.kind}
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    parts = {n: describe_answer(v) if is_dataclass(v) else v for n, v in values.items()}
    return {"kind": name, **parts}


def build_answer(description: Any) -> Answer | None:
    """What :func:`describe_answer` described; None where it has functions of the user's own.

    Raises ValueError for a kind that is not known and for values that it cannot have.
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
