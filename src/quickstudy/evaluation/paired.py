"""Pairs of learners on the same tasks: differences, intervals, tests and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.base.shown import shown
from quickstudy.evaluation.holm import holm
from quickstudy.evaluation.intervals import Interval, of_means
from quickstudy.evaluation.over_trainings import over_trainings
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.same_tasks import same_results
from quickstudy.evaluation.strict_json import number, plain

LEVEL = 0.05
"""The greatest chance of a false "better" or "worse" in a comparison."""

FEWEST_TIES = 50
"""With fewer tasks, on which two learners score the same throughout, they may still differ: on a
tenth of other tasks, with a chance of 1 in 200 that none of 50 shows it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """The first learner against the second, on the same tasks.

    ``first``, ``second``  their names.
    ``unit``         of the score: "%" for a share in [0, 1], else "".
    ``difference``   how much better the first is, whether high or low scores are good; negative
                     where it is worse. A share, not points, where the unit is "%".
    ``these``        its 95% interval over other tasks of these classes, for these trainings.
    ``others``       over other trainings and other classes; None where that is not known.
    ``others_over``  what ``others`` is over, or why it is not known.
    ``ties``         the share of tasks on which both score the same.
    ``p``            of Wilcoxon's signed-rank test.
    ``p_holm``       ``p`` adjusted for all pairs of the comparison.
    ``p_others``     of Student's t that the difference is 0 over other trainings and classes,
                     adjusted likewise; NaN where that is not known.
    ``matters``      the least difference that matters, in the score's unit.
    ``level``        the chance of a false verdict that this look may have.
    ``deciding``     the interval of ``difference`` at this level, ``these`` at 0.05; infinite where
                     all of fewer than 50 tasks are ties.
    """

    first: str
    second: str
    unit: str
    difference: float
    these: Interval
    others: Interval | None
    others_over: str
    ties: float
    p: float
    p_holm: float
    p_others: float
    matters: float
    level: float
    deciding: Interval

    @property
    def here(self) -> str:
        """The verdict for these trainings on these classes, which more tasks can decide.

        "better" or "worse": p_holm <= level, the interval at this level does not contain 0, and the
        difference is at least what matters. "equivalent": that interval lies within what matters.
        Else "not known".
        """
        if self.deciding.within(self.matters):
            return "equivalent"
        sure = self.p_holm <= self.level and 0.0 not in self.deciding
        if sure and abs(self.difference) >= self.matters:
            return "better" if self.difference > 0 else "worse"
        return "not known"

    @property
    def verdict(self) -> str:
        """The verdict on the learners: ``here``, where it also holds for other trainings.

        Where ``others`` is known, "better" and "worse" need p_others <= 0.05 too, and "equivalent"
        that ``others`` lies within what matters; else it is "not known". With fewer than 3
        trainings it is ``here`` alone, and says nothing of other trainings: two trainings of one
        learner can be "better" and "worse".
        """
        if self.others is None or self.here == "not known":
            return self.here
        if self.here == "equivalent":
            holds = self.others.within(self.matters)
        else:
            holds = self.p_others <= LEVEL and 0.0 not in self.others
        return self.here if holds else "not known"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with the verdicts."""
        intervals = {name: getattr(self, name) for name in _INTERVALS}
        return {
            **{name: plain(getattr(self, name)) for name in _PLAIN},
            **{name: None if each is None else each.to_json() for name, each in intervals.items()},
            "here": self.here,
            "verdict": self.verdict,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Pair:
        """What :meth:`to_json` gave; the verdicts are found anew."""
        fields: dict[str, Any] = {name: _number(values[name]) for name in _PLAIN}
        for name in _INTERVALS:
            found = values[name]
            fields[name] = None if found is None else Interval.from_json(found)
        return Pair(**fields)


_INTERVALS = ("these", "others", "deciding")
_PLAIN = (
    "first", "second", "unit", "difference", "others_over", "ties", "p", "p_holm", "p_others",
    "matters", "level",
)  # fmt: skip


def _number(value: Any) -> Any:
    return value if isinstance(value, str) else number(value)


@dataclass(frozen=True)
class Figures:
    """The score of one learner, over its trainings.

    ``mean``         over trainings and tasks.
    ``these``        its 95% interval over other tasks of these classes, for these trainings.
    ``others``       over other trainings and other classes; None where that is not known.
    ``others_over``  what ``others`` is over, or why it is not known.
    """

    mean: float
    these: Interval
    others: Interval | None
    others_over: str


def pairs(
    results: Mapping[str, Sequence[Result]],
    matters: float,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[Pair, ...]:
    """Every pair of learners, in the order of ``results``.

    ``results``  for each learner one result for each training, all on the same tasks. What is not
                 trained is the same for every training: give its result once for each.
    ``matters``  the least difference that matters, in the score's unit: 0.005 is half a point.
    ``seed``     of the bootstrap.
    ``level``    the part of the level 0.05 that this look at the results may use
                 (:func:`quickstudy.evaluation.looks.looks`).

    Raises ValueError for fewer than 2 learners or tasks, results of different scores, units or
    tasks, and a task without a score.
    """
    if len(results) < 2:
        raise ValueError(
            f"pairs: a comparison needs at least 2 learners; found {len(results)}. Add another, "
            "for example a baseline."
        )
    if not (isinstance(matters, int | float) and math.isfinite(matters) and matters >= 0):
        raise ValueError(
            f"pairs: matters must be a number of 0 or more; found {shown(matters)}. Give the least "
            "difference that matters, for example 0.005 for half a point of accuracy."
        )
    same_results("pairs", results)
    learners = {name: _scores(of_learner) for name, of_learner in results.items()}
    reference = next(iter(results.values()))[0]
    sign = 1.0 if reference.higher_is_better else -1.0
    chosen = list(combinations(learners, 2))
    rows = np.stack([
        sign * _rounded(learners[a].mean(0) - learners[b].mean(0), learners.values())
        for a, b in chosen
    ])  # fmt: skip
    intervals = of_means(rows, seed, (LEVEL, level))
    for row, ends in zip(rows, intervals, strict=True):
        if len(row) < FEWEST_TIES and not row.any():
            ends[1] = Interval(-math.inf, math.inf)
    tests = [wilcoxon_p(row) for row in rows]
    classes, named = reference.task_classes, reference.classes is not None
    others = [
        over_trainings((sign * learners[a], -sign * learners[b]), classes, named) for a, b in chosen
    ]
    adjusted = holm(tests), holm([other.p for other in others])
    found = []
    for (a, b), row, (these, deciding), p, other, p_holm, p_others in zip(
        chosen, rows, intervals, tests, others, *adjusted, strict=True
    ):
        found.append(Pair(
            a, b, reference.unit, sign * float(learners[a].mean() - learners[b].mean()), these,
            other.interval, other.over, float((row == 0).mean()), p, p_holm, p_others,
            float(matters), level, deciding,
        ))  # fmt: skip
    return tuple(found)


def figures(results: Sequence[Result], seed: int = 0) -> Figures:
    """The score of one learner: one result for each of its trainings, on the same tasks.

    Intervals of a share (%) end at 0 and 1: with three trainings that differ much, Student's t
    would go on beyond.
    """
    same_results("figures", {"the learner": results})
    scores, reference = _scores(results), results[0]
    ((these,),) = of_means(scores.mean(0)[None], seed)
    other = over_trainings([scores], reference.task_classes, reference.classes is not None)
    others = other.interval
    if reference.unit == "%":
        these, others = these.clipped(0, 1), others and others.clipped(0, 1)
    return Figures(float(scores.mean()), these, others, other.over)


def mean_ranks(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """The mean over tasks of each learner's rank, 1 for the best; equal scores share ranks."""
    from scipy.stats import rankdata

    same_results("mean_ranks", results)
    reference = next(iter(results.values()))[0]
    sign = -1.0 if reference.higher_is_better else 1.0
    learners = [_scores(of_learner) for of_learner in results.values()]
    scores = _rounded(np.stack([sign * each.mean(0) for each in learners]), learners)
    ranks = rankdata(scores, axis=0).mean(1)
    return dict(zip(results, map(float, ranks), strict=True))


def wilcoxon_p(differences: Floats) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test that ``differences`` (tasks,) are
    symmetric about 0; zeros are ranked, and half of their ranks count on each side.

    1 where all are 0.

    Reference: Wilcoxon (1945); ``scipy.stats.wilcoxon`` with zero_method="zsplit".
    """
    from scipy.stats import wilcoxon

    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="zsplit").pvalue)


def _scores(results: Sequence[Result]) -> Floats:
    """(trainings, tasks); pseudo-values are moved so that their mean is the pooled score."""
    found = np.stack([result.values.double().numpy() for result in results])
    if results[0].pooled:
        means = np.array([result.mean for result in results])
        found = found + (means - found.mean(1))[:, None]
    return found


def _rounded(values: Floats, scores: Any) -> Floats:
    """To seven digits of the largest score, so that ties stay ties: means over trainings differ in
    their last bits by the order of sums, and files keep eight digits."""
    largest = max(float(np.abs(each).max()) for each in scores)
    unit = 1e-7 * largest if largest else 1.0
    return np.round(values / unit) * unit
