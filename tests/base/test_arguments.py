"""Arguments of a wrong type give an error that names them, at every constructor of the library."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.base.arguments import typed
from quickstudy.learners.cards import cards

ODD: tuple[Any, ...] = ({"a": 1}, "x", None, [1.0], -1, torch.zeros(2))


@typed
def called(
    rate: float = 1.0, count: int | None = 1, kind: Literal["a", "b"] = "a",
    names: Sequence[str] = (), of: Mapping[str, int] = {}, each: Callable[[int], int] = abs,
) -> float:  # fmt: skip
    return rate + (count or 0) + len(kind) + len("".join(names)) + sum(of.values()) + each(-1)


def test_calls_that_work_are_as_they_were() -> None:
    assert called(2, 3, names=["x"], of={"a": 1}) == 2 + 3 + 1 + 1 + 1 + 1
    assert called(count=None) == 3
    assert called.__name__ == "called"
    assert next(iter(inspect.signature(called).parameters)) == "rate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": "x"}, "called: rate must be a number; found 'x'."),
        ({"count": "x"}, "called: count must be a whole number or None; found 'x'."),
        ({"names": [1]}, "called: names must be a sequence, each a string; found [1]."),
        ({"of": 3}, "called: of must be a mapping; found 3."),
        ({"each": 3}, "called: each must be a function; found 3."),
        ({"kind": 3}, "called: kind must be 'a' or 'b'; found 3."),
    ],
)
def test_the_error_names_argument_type_and_value(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (compared whole)
        called(**arguments)
    assert str(error.value) == message


def test_other_errors_stay_as_they_are() -> None:
    @typed
    def fails(rate: float) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fails(1.0)
    with pytest.raises(TypeError, match="missing 1 required"):
        fails()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword"):
        fails(speed=1.0)  # type: ignore[call-arg]


def backbone_of(name: str) -> Any:
    card = cards()[name]
    if card.maps:
        return qs.backbones.Conv4(4, image_size=28, pools=2, flat=False)
    return MLP(4, (3,), outputs=2 if card.head else None)


def constructor(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A learner or backbone, with the arguments that it needs."""
    if name not in cards():
        return getattr(qs.backbones, name), {}
    cls = getattr(qs, cards()[name].class_name)
    parameters = inspect.signature(cls).parameters
    needed = {n for n, one in parameters.items() if one.default is inspect.Parameter.empty}
    inner = qs.LinearProbe(MLP(4, (3,)))
    given = {
        "backbone": backbone_of(name), "outputs": 2, "length": 5, "learner": inner,
        "learners": [inner],
    }  # fmt: skip
    return cls, {n: value for n, value in given.items() if n in needed}


@pytest.mark.parametrize("name", ["Conv4", "MLP", "ResNet12", *cards()])
def test_no_constructor_raises_a_bare_error(name: str) -> None:
    cls, needed = constructor(name)
    for argument in inspect.signature(cls).parameters:
        if argument == "backbone":
            continue
        for value in ODD:
            with warnings.catch_warnings(), contextlib.suppress(ValueError):
                warnings.simplefilter("ignore")
                cls(**{**needed, argument: value})
