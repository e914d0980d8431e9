"""What looks at progress is found out, however it looks, and even where it hides that it did."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import quickstudy as qs
from quickstudy.core import Learner
from quickstudy.training.untold import untold_progress

LOOKS: dict[str, Callable[[Any], Any]] = {
    "compares": lambda p: p >= 0.5,
    "multiplies": lambda p: 2 * p,
    "a power of it": lambda p: p**2,
    "to its power": lambda p: 0.9**p,
    "rounds": lambda p: round(p, 1),
    "absolute": abs,
    "whole": int,
    "an index": lambda p: [1, 2][p],
    "modulo": lambda p: p % 0.1,
    "whole part": lambda p: p // 0.1,
    "cosine": math.cos,
    "floor": math.floor,
    "whether": bool,
}


def learner() -> Learner:
    learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    learner.progress = 0.25
    return learner


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_at_progress_is_refused(look: str) -> None:
    one = learner()
    with pytest.raises(TypeError, match=r"changes with Learner\.progress"), untold_progress(one):
        LOOKS[look](one.progress)
    assert one.progress == 0.25


def test_a_look_is_refused_even_where_its_error_is_caught() -> None:
    def hides(learner: Learner) -> float:
        try:
            return 2 * learner.progress
        except TypeError:
            return 2.0

    one = learner()
    with pytest.raises(TypeError, match=r"changes with Learner\.progress"), untold_progress(one):
        hides(one)
    assert one.progress == 0.25


def test_handing_it_on_is_no_look() -> None:
    one = learner()
    with untold_progress(one):
        other = learner()
        other.progress = one.progress
    assert one.progress == 0.25
