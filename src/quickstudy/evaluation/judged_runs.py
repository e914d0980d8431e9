"""Several trainings of one multi-task learner, each judged against single tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from quickstudy.base.words import count
from quickstudy.evaluation import wording
from quickstudy.evaluation.judgement import Judgement
from quickstudy.evaluation.strict_json import plain


@dataclass(frozen=True)
class Runs:
    """Several trainings of one multi-task learner, judged; see :func:`judge_runs`.

    ``delta_m``, ``half_width``  the mean over runs, and half its 95% interval.
    ``gains``, ``half_widths``   the same for each task of ``names``.
    """

    name: str
    names: tuple[str, ...]
    delta_m: float
    half_width: float
    gains: tuple[float, ...]
    half_widths: tuple[float, ...]
    judgements: tuple[Judgement, ...]

    @property
    def worst(self) -> tuple[str, float, float]:
        """The task with the least mean gain, that gain, and half its interval over runs."""
        known = [(gain, place) for place, gain in enumerate(self.gains) if not math.isnan(gain)]
        gain, place = min(known, default=(math.nan, 0))
        return self.names[place], gain, self.half_widths[place]

    @property
    def figure(self) -> str:
        """Δm and its interval over runs."""
        width = wording.half_width(self.half_width, "%")
        return f"{wording.difference(self.delta_m, '%')}% ± {width}"

    @property
    def hurt(self) -> tuple[int, ...]:
        """How many tasks were hurt in each run."""
        return tuple(len(each.hurt) for each in self.judgements)

    def __str__(self) -> str:
        name, gain, width = self.worst
        return (
            f"{self.name} beside single tasks: Δm {self.figure} (95% interval over "
            f"{count(len(self.judgements), 'run')}); worst task {name}, "
            f"{wording.difference(gain, '%')}% ± {wording.half_width(width, '%')}; tasks hurt in "
            f"each run: {', '.join(map(str, self.hurt))}"
        )

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with every run."""
        about = {name: plain(getattr(self, name)) for name in ("name", "delta_m", "half_width")}
        tasks = {
            name: {"gain": plain(gain), "half_width": plain(width)}
            for name, gain, width in zip(self.names, self.gains, self.half_widths, strict=True)
        }
        return {**about, "tasks": tasks, "runs": [each.to_json() for each in self.judgements]}
