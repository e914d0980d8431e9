"""What result files keep of an evaluation: its figures, and the score of every task."""

from __future__ import annotations

import json
import re
from typing import Any

import quickstudy as qs

_NUMBERS = re.compile(r"\[\s+(-?[\d.][^][{}\"]*?)\s+\]")


def figures(evaluation: qs.Evaluation) -> dict[str, Any]:
    """The first score's mean and interval, what they depend on, and each task's score, as JSON."""
    about = evaluation.to_json()
    del about["rows"]
    main = evaluation.main
    scores = [round(score, 6) for score in main.values.tolist()]
    return {
        "metric": main.score, "mean": main.mean, "half_width": main.half_width, **about,
        "scores": scores,
    }  # fmt: skip


def as_json(results: Any) -> bytes:
    """A results file: indented, but with every list of numbers on one line."""
    text = json.dumps(results, indent=1)
    return (_NUMBERS.sub(_on_one_line, text) + "\n").encode()


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + " ".join(numbers[1].split()) + "]"
