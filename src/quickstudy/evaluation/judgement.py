"""The result of judging multi-task learning: a row per task, Δm, the worst task, advice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from quickstudy.base.words import count, first_few
from quickstudy.evaluation import wording
from quickstudy.evaluation.strict_json import plain


class Over(StrEnum):
    """What a task's interval and test are over."""

    ROWS = "query rows"
    TASKS = "tasks"


@dataclass(frozen=True)
class OfTask:
    """One task, learnt with the others and alone.

    ``multi``, ``single``  its scores, each with half the 95% interval.
    ``difference``         how much better the score is with the others, in the unit of the score.
    ``gain``               the same as a share of the single task's score; NaN where that is 0.
    ``p``                  of the paired test that the difference is 0, after Holm's correction.
    ``counted``, ``over``  the number of query rows, or of tasks, that interval and test are over.
    ``undefined``          why the task has no score; "" where it has one.
    ``level``              of the test.
    """

    name: str
    score: str
    unit: str
    higher_is_better: bool
    multi: float
    multi_half_width: float
    single: float
    single_half_width: float
    difference: float
    difference_half_width: float
    gain: float
    gain_half_width: float
    p: float
    counted: int
    over: Over
    undefined: str
    level: float

    @property
    def hurt(self) -> bool:
        """Whether it was shown to score worse with the others."""
        return self.p <= self.level and self.difference < 0

    @property
    def gains(self) -> bool:
        """Whether it was shown to score better with the others."""
        return self.p <= self.level and self.difference > 0

    @property
    def verdict(self) -> str:
        """ "gains", "hurt", "neither shown", "not tested" or "no score"."""
        if self.undefined:
            return "no score"
        if math.isnan(self.p):
            return "not tested"
        return "gains" if self.gains else "hurt" if self.hurt else "neither shown"

    def figure(self, which: str) -> str:
        """``multi``, ``single``, ``difference`` or ``gain`` with its interval, for people."""
        value, width = getattr(self, which), getattr(self, f"{which}_half_width")
        if math.isnan(value):
            return "–"
        unit = "%" if which == "gain" else self.unit
        write = wording.difference if which in ("difference", "gain") else wording.score
        percent = "%" if which == "gain" else ""
        return f"{write(value, unit)}{percent} ± {wording.half_width(width, unit)}"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with the verdict."""
        fields = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {**fields, "over": str(self.over), "verdict": self.verdict}


@dataclass(frozen=True)
class Judgement:
    """A multi-task learner beside single-task ones, see :func:`judge_multitask`.

    ``table``                  the tasks, in the order of the evaluation.
    ``delta_m``, ``half_width``  the mean gain over tasks that have one, and half its 95% interval
                               over query rows, for these tasks.
    ``half_width_over_tasks``  half the interval for other tasks like these.
    ``means``                  for each kind of score, the mean over tasks.
    ``tried``                  the number of settings tried for both, None where not stated.
    ``pooled``                 the same for one network for the rows of all tasks, where given.
    """

    name: str
    table: tuple[OfTask, ...]
    delta_m: float
    half_width: float
    half_width_over_tasks: float
    means: tuple[OfTask, ...]
    tried: tuple[int, int] | None
    protocol: str
    seed: int
    fingerprint: str
    level: float
    pooled: Judgement | None = None

    @property
    def by_gain(self) -> tuple[OfTask, ...]:
        """The tasks, the greatest gain first; those without a gain last."""
        return tuple(sorted(
            self.table, key=lambda row: math.inf if math.isnan(row.gain) else -row.gain
        ))  # fmt: skip

    @property
    def hurt(self) -> tuple[str, ...]:
        """The names of the tasks that were shown to score worse: the negative transfer."""
        return tuple(row.name for row in self.table if row.hurt)

    @property
    def gaining(self) -> tuple[str, ...]:
        """The names of the tasks that were shown to score better."""
        return tuple(row.name for row in self.table if row.gains)

    @property
    def unscored(self) -> tuple[str, ...]:
        """The names of the tasks whose score is undefined."""
        return tuple(row.name for row in self.table if row.undefined)

    @property
    def without_gain(self) -> tuple[str, ...]:
        """The names of tasks with scores but no relative gain: the single task's score is 0."""
        rows = (row for row in self.table if not row.undefined and math.isnan(row.gain))
        return tuple(row.name for row in rows)

    @property
    def worst(self) -> OfTask | None:
        """The task with the least gain; None where none has one."""
        rows = [row for row in self.table if not math.isnan(row.gain)]
        return min(rows, key=lambda row: row.gain, default=None)

    @property
    def lowest(self) -> OfTask | None:
        """The task with the worst score; None where scores differ in kind, or there are none."""
        rows = [row for row in self.table if not row.undefined]
        if len({row.score for row in rows}) != 1:
            return None
        return min(rows, key=lambda row: row.multi if row.higher_is_better else -row.multi)

    @property
    def advice(self) -> str:
        """What to do, in one sentence or two."""
        gaining, hurt = self.gaining, self.hurt
        if len(self.unscored) == len(self.table):
            return "No advice: no task has a score. Test on rows whose score is defined."
        if len(self.table) == 1 and not gaining:
            return "Train alone: there is one task, so nothing is shared."
        if not gaining and hurt:
            are = "is" if len(hurt) == 1 else "are"
            return f"Train alone: no task gains, and {len(hurt)} {are} hurt ({first_few(hurt)})."
        if not gaining and self.delta_m - self.half_width > 0:
            return (
                "The tasks gain on average, but no single one is shown to: train together, or test "
                "on more rows."
            )
        if not gaining:
            worse = self.delta_m + self.half_width < 0
            more = ", and they are worse on average" if worse else ""
            return f"Train alone: no task is shown to gain{more}."
        told = f"{len(gaining)} of {count(len(self.table), 'task')} {_verb(gaining, 'gain')}"
        if hurt:
            are = "is" if len(hurt) == 1 else "are"
            return f"{told}, but {len(hurt)} {are} hurt: train {first_few(hurt)} alone."
        return f"Train together: {told}, and none is shown to be hurt."

    @property
    def budget(self) -> str:
        """What was tried to tune both, as far as it is known."""
        if self.tried is None:
            return (
                "tuning budgets not stated: a gain over single tasks that were tuned less means "
                "nothing"
            )
        multi, single = self.tried
        if multi == single:
            return f"{count(multi, 'setting')} tried for each"
        tried = f"{count(multi, 'setting')} tried for {self.name}, {single} for single tasks"
        return f"UNEQUAL tuning: {tried}"

    @property
    def figure(self) -> str:
        """Δm and its interval, for example "+3.1% ± 0.8"; "–" where no task has a gain."""
        if math.isnan(self.delta_m):
            return "–"
        width = wording.half_width(self.half_width, "%")
        return f"{wording.difference(self.delta_m, '%')}% ± {width}"

    @property
    def remarks(self) -> Iterator[str]:
        """What must be known beside Δm, a sentence each."""
        over = wording.half_width(self.half_width_over_tasks, "%")
        few = [
            row.name for row in self.table if not row.undefined and math.isinf(row.multi_half_width)
        ]
        if few:
            yield f"no interval: {count(len(few), 'task')} with too few rows: {first_few(few)}"
        yield f"95% interval over query rows, for these tasks; ± {over} over tasks"
        for mean in self.means:
            yield (
                f"{mean.score}, {mean.name}: {mean.figure('multi')}, single {mean.figure('single')}"
                f" (difference {mean.figure('difference')})"
            )
        if self.pooled is None:
            yield "no pooled baseline: one network for the rows of all tasks, by pooled=…"
        else:
            hurt = f"{len(self.pooled.hurt)} of {count(len(self.table), 'task')} hurt"
            yield f"one network for the rows of all tasks (pooled): Δm {self.pooled.figure}, {hurt}"
        if self.worst is not None:
            gain = self.worst.figure("gain")
            yield f"worst task: {self.worst.name}, {gain} ({self.worst.verdict})"
        if self.lowest is not None:
            yield f"lowest score: {self.lowest.name}, {self.lowest.figure('multi')}"
        for names, what in ((self.hurt, "hurt"), (self.gaining, _verb(self.gaining, "gain"))):
            listed = f": {first_few(names)}" if names else ""
            yield f"{len(names)} of {count(len(self.table), 'task')} {what}{listed}"
        if self.unscored:
            listed = first_few([f"{r.name} ({r.undefined})" for r in self.table if r.undefined])
            yield f"no score: {count(len(self.unscored), 'task')}, left out of Δm: {listed}"
        if self.without_gain:
            yield (
                f"no relative gain: {count(len(self.without_gain), 'task')}, whose single score is "
                f"0, left out of Δm: {first_few(self.without_gain)}"
            )
        yield f"paired t-tests over query rows or tasks, Holm's correction, level {self.level:g}"
        yield self.budget

    def __str__(self) -> str:
        lines = [
            f"{self.name} beside single tasks: Δm {self.figure} ({count(len(self.table), 'task')}, "
            f"{self.protocol}, seed {self.seed})",
            *(f"  {remark}" for remark in self.remarks),
            self.advice,
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with every task."""
        about = ("name", "delta_m", "half_width", "half_width_over_tasks", "protocol", "seed",
                 "fingerprint", "level")  # fmt: skip
        return {
            **{name: plain(getattr(self, name)) for name in about},
            "tried": None if self.tried is None else list(self.tried),
            "hurt": list(self.hurt),
            "gaining": list(self.gaining),
            "unscored": list(self.unscored),
            "worst": None if self.worst is None else self.worst.name,
            "advice": self.advice,
            "pooled": None if self.pooled is None else self.pooled.to_json(),
            "means": [row.to_json() for row in self.means],
            "table": [row.to_json() for row in self.table],
        }


def _verb(names: tuple[str, ...], verb: str) -> str:
    return f"{verb}s" if len(names) == 1 else verb
