"""A baseline's score on the same tasks, and by how much the learner's is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.core import Score
from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.strict_json import number, plain


@dataclass(frozen=True)
class Compared:
    """A baseline beside the learner, on the same tasks.

    ``name``             the baseline, for example "chance".
    ``unit``             of the score.
    ``values``           (tasks,) its score on each task; for a pooled score, pseudo-values.
    ``mean``             its score.
    ``gain``             how much better the learner's score is; negative where it is worse, whether
                         high or low scores are good.
    ``gain_half_width``  half the 95% interval of ``gain``, from the differences of single tasks, or
                         of the query rows where there is one task.
    ``in_interval``      whether the 95% interval of the learner's score contains ``mean``.
    """

    name: str
    unit: str
    values: Tensor
    mean: float
    gain: float
    gain_half_width: float
    in_interval: bool

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval of the gain excludes 0, else "no better"."""
        if self.gain - self.gain_half_width > 0:
            return "better"
        return "worse" if self.gain + self.gain_half_width < 0 else "no better"

    @property
    def by(self) -> str:
        """The gain and its interval, for example "+0.1 ± 0.4"."""
        gain = wording.difference(self.gain, self.unit)
        return f"{gain} ± {wording.half_width(self.gain_half_width, self.unit)}"

    @property
    def claim(self) -> str:
        """For example "no better than chance, 33.3%"."""
        return f"{self.verdict} than {self.name}, {wording.score(self.mean, self.unit)}"

    @property
    def sentence(self) -> str:
        """The claim, whether the interval of the result contains the baseline, and the gain."""
        inside = ", which the interval contains" if self.in_interval else ""
        return f"{self.claim}{inside} (difference {self.by})"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with the verdict."""
        fields = ("mean", "gain", "gain_half_width")
        return {
            "name": self.name,
            **{name: plain(getattr(self, name)) for name in fields},
            "in_interval": self.in_interval,
            "verdict": self.verdict,
            "values": plain(self.values.tolist()),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], unit: str) -> Compared:
        """What :meth:`to_json` gave."""
        mean, gain, width = (number(values[name]) for name in ("mean", "gain", "gain_half_width"))
        scores = torch.tensor(number(values["values"]), dtype=torch.float64)
        return Compared(values["name"], unit, scores, mean, gain, width, values["in_interval"])


def compare(
    name: str,
    score: Score,
    baseline: tuple[Tensor, float],
    learner: tuple[Tensor, float, float],
    rows: tuple[Tensor, Tensor] | None = None,
) -> Compared:
    """A baseline's values and mean beside the learner's values, mean and half-width.

    ``rows``  of a single task, (n,) pseudo-values of the learner and the baseline over query rows,
              which the interval of the gain is then over.
    """
    (values, mean), (own, own_mean, own_width) = baseline, learner
    sign = 1.0 if score.higher_is_better else -1.0
    differences = own - values if rows is None else rows[0] - rows[1]
    undefined = differences.isnan()
    width = half_width(differences[~undefined])
    if rows is not None and bool(undefined.any()):
        width = math.inf
    return Compared(
        name, score.unit, values, mean, sign * (own_mean - mean), width,
        abs(own_mean - mean) <= own_width,
    )  # fmt: skip
