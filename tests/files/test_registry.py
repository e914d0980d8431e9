"""Whether every name in the registry stands for something that is there."""

from __future__ import annotations

import pytest

from quickstudy.files.registry import BACKBONES, FUNCTIONS, LEARNERS, PARTS, resolve

ALL = [
    ("learner", LEARNERS), ("backbone", BACKBONES), ("function", FUNCTIONS), ("part", PARTS),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "names"), ALL, ids=[kind for kind, _ in ALL])
def test_every_name_stands_for_something(kind: str, names: dict[str, object]) -> None:
    assert names
    for name in names:
        assert callable(resolve(kind, name, names))
