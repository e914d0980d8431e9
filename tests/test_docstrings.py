"""The examples in docstrings of learners run."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from quickstudy.learners.cards import cards


@pytest.mark.parametrize("name", cards())
def test_the_example_runs(name: str) -> None:
    module = import_module(cards()[name].home)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
