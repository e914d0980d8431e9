"""Evaluations that grow: more tasks are added until there are enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from quickstudy.base.replica import in_evaluation_mode
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.baselines import (
    Baselines,
    Strategies,
    add_statistics,
    complete,
    statistics_of,
)
from quickstudy.evaluation.evaluate import Scoring, check_call
from quickstudy.evaluation.kinds import Key, Kinds
from quickstudy.evaluation.over_classes import class_names
from quickstudy.evaluation.own_units import in_own_units
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.results import Evaluation
from quickstudy.tasks.numbering import Fingerprint, Stream, draw

BATCH = 16
"""Tasks that are drawn and computed at once."""


class Growing:
    """The evaluation of a learner on the first tasks of ``source``, without baselines.

    The arguments are those of :func:`quickstudy.evaluate`, which gives the same results for the
    same number of tasks where each number asked for is a multiple of 16, or the last one: tasks are
    computed in batches, whose size may change the last bits.
    """

    def __init__(
        self,
        learner: Learner,
        source: TaskSource,
        *,
        seed: int = 0,
        raw: TaskSource | None = None,
        of: Learner | None = None,
    ) -> None:
        check_call("evaluate", learner, seed)
        own = in_evaluation_mode(learner)
        self._source, self._seed = source, seed
        self._scoring = Scoring(own, source, seed, Stream.TEST, BATCH, None, raw or source, of)

    def to(self, tasks: int) -> Evaluation:
        """The evaluation on the first ``tasks`` tasks; those scored before are not scored again.

        Raises what :func:`quickstudy.evaluate` raises.
        """
        for first in range(self._scoring.count, tasks, BATCH):
            numbers = range(first, min(first + BATCH, tasks))
            self._scoring.add([draw(self._source, self._seed, i, Stream.TEST) for i in numbers])
        return self._scoring.evaluation()


@dataclass
class GrowingBaselines:
    """The evaluations of the baselines without a network: a guess, and the nearest mean of inputs.

    ``left_out``  why a baseline has no evaluation, by its name.
    """

    source: TaskSource
    seed: int = 0
    count: int = 0
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    kinds: Kinds = field(default_factory=Kinds)
    _predictors: Baselines = field(default_factory=lambda: Baselines(None))
    _found: dict[Key, Strategies] = field(default_factory=dict)
    _names: dict[str, list[frozenset[str] | None]] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """Why a baseline was not computed, by its name."""
        return self._predictors.left_out

    def to(self, tasks: int) -> dict[str, Evaluation]:
        """By its name, the evaluation of each baseline on the first ``tasks`` tasks."""
        for number in range(self.count, tasks):
            self._add(number)
        self.count = max(tasks, self.count)
        names = {name for strategies in self._found.values() for name in strategies}
        return {name: self._evaluation(name) for name in sorted(names)}

    def _add(self, number: int) -> None:
        task = draw(self.source, self.seed, number, Stream.TEST)
        self.kinds.add(task.spec)
        self.fingerprint.add(task)
        name = task.spec.name
        named = class_names(self.source, self.seed, number, Stream.TEST)
        self._names.setdefault(name, []).append(named)
        predictions = in_own_units(self.source, name, self._predictors.predict(task))
        for score, baseline, statistics in statistics_of(task, predictions):
            add_statistics(self._found.setdefault((name, score), {}), baseline, statistics)

    def _evaluation(self, baseline: str) -> Evaluation:
        results = (self._result(key, baseline) for key in self._found)
        return Evaluation(
            rows=tuple(result for result in results if result is not None),
            tasks=self.count,
            calibration_error=None,
            seconds_per_adaptation=math.nan,
            transductive=False,
            norm="",
            seed=self.seed,
            fingerprint=self.fingerprint.value,
        )

    def _result(self, key: Key, baseline: str) -> Result | None:
        """Of the strategy with the best mean; None where not all tasks of the name have it."""
        name, score_name = key
        every = self._names[name]
        strategies = complete(self._found[key], len(every)).get(baseline)
        if not strategies:
            return None
        score = next(s for s in self.kinds.answers[key].scores if s.name == score_name)
        names = [each for each in every if each is not None]
        known = names if len(names) == len(every) else None
        first = key in self.kinds.first
        found = [result_of(name, score, each, first, names=known) for each in strategies]
        sign = 1.0 if score.higher_is_better else -1.0
        return max(found, key=lambda each: -math.inf if math.isnan(each.mean) else sign * each.mean)
