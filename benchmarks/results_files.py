"""What the tables of ``README.md`` are computed with: see ``tables.py``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from quickstudy.evaluation.intervals import half_width

RESULTS = Path(__file__).parent / "results"
Scores = Sequence[float]
Rows = list[dict[str, object]]


def read(name: str) -> Any:
    """The contents of ``results/<name>.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def mean_of(scores: Iterable[float]) -> float:
    """The mean, in float64."""
    return float(torch.tensor(list(scores), dtype=torch.float64).mean())


def figure(scores: Scores, digits: int = 1, scale: float = 100) -> str:
    """ "97.1 ± 0.2": mean and half of the 95% interval (Student's t) over the scores, which are
    multiplied by ``scale``."""
    half = half_width(torch.tensor(scores, dtype=torch.float64))
    mean = round(scale * mean_of(scores), digits) + 0.0  # -0.0 becomes 0.0
    return f"{mean:.{digits}f} ± {scale * half:.{digits}f}"


def gain(of: Scores, over: Scores, digits: int = 1, scale: float = 100) -> str:
    """The same of paired differences, with a sign."""
    text = figure([a - b for a, b in zip(of, over, strict=True)], digits, scale)
    return text if text.startswith("-") or float(text.split()[0]) == 0 else f"+{text}"


def known(row: Mapping[str, Any], digits: int = 1, scale: float = 100) -> str:
    """A stored evaluation, from its scores where it has them."""
    if "scores" in row:
        return figure(row["scores"], digits, scale)
    return f"{scale * row['mean']:.{digits}f} ± {scale * row['half_width']:.{digits}f}"


def minus(a: Scores, b: Scores) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
