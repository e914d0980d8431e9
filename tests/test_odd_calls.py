"""A few of the odd calls of benchmarks/odd_calls.py: none gives a raw error or silent NaN."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


def test_odd_calls_are_answered_or_explained() -> None:
    found = import_module("odd_calls").count(300, seed=1)
    assert found["wrong"] == {}
    assert found["answered"] >= 30
    assert found["refused"] >= 100
