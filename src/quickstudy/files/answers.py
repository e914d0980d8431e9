"""Answers as JSON: how a file describes the answer that a predictor was made for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from quickstudy.answers import (
    Actions,
    Boxes,
    Classes,
    Custom,
    Labels,
    Pixels,
    Reals,
    Spans,
    Tokens,
    World,
)
from quickstudy.base.counted_fields import counted_fields, needed_fields
from quickstudy.core import Answer
from quickstudy.files.limits import check_numbers
from quickstudy.tasks.bandits import Bandit

ANSWERS: dict[str, type[Any]] = {
    kind.kind: kind for kind in (Classes, Reals, Labels, Pixels, Tokens, Spans, Boxes, Actions)
}
WORLDS: dict[str, type[Any]] = {"bandit": Bandit}
"""Parts of answers that are frozen dataclasses too."""

_NAMES = {kind: name for name, kind in (ANSWERS | WORLDS).items()}


def describe_answer(answer: Any) -> dict[str, Any]:
    """The answer as JSON from which :func:`build_answer` makes it again.

    Of an answer with the user's own code, be it functions (:func:`quickstudy.spec`), its class, or
    a world to act in, JSON can only say what distinguishes it from others: the name of its class,
    its width, and the names of its scores.
    """
    try:
        description: dict[str, Any] = _describe(answer)
        return description
    except KeyError:
        scores = [score.name for score in answer.scores]
        name = type(answer).__name__
        return {"kind": Custom.kind, "class": name, "outputs": answer.outputs, "scores": scores}


def _describe(part: Any) -> Any:
    """KeyError for an answer, or a part of it, of the user's own."""
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    name = _NAMES[type(part)]
    values = {name: _describe(value) for name, value in counted_fields(part).items()}
    return {"kind": name, **values}


def build_answer(description: Any, tensors: Iterable[Any] = ()) -> Answer | None:
    """The answer that :func:`describe_answer` described; None for one with the user's own code.

    ``tensors``  those of the file that has the description.

    Raises ValueError for an unknown kind, for values of a wrong type, and for numbers out of
    proportion to ``tensors`` (:mod:`quickstudy.files.limits`).
    """
    check_numbers(description, tensors)
    if isinstance(description, dict) and description.get("kind") == Custom.kind:
        return None
    answer: Answer = _build(description)
    return answer


def _build(description: Any, known: dict[str, type[Any]] = ANSWERS) -> Any:
    values = dict(description) if isinstance(description, dict) else {}
    kind = known.get(str(values.pop("kind", None)))
    if kind is None or not (
        needed_fields(kind) <= values.keys() <= {field.name for field in fields(kind)}
    ):
        raise ValueError(f"its answer is {description!r}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if hints[name] is World:
            values[name] = _build(value, WORLDS)
        elif not isinstance(value, hints[name]) or isinstance(value, bool) != (hints[name] is bool):
            raise ValueError(f"its answer is {description!r}")
    return kind(**values)
