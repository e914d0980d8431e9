"""A comparison: learners and baselines on the same tasks, and every pair of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from quickstudy.base.words import count
from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import Interval
from quickstudy.evaluation.paired import Figures, Pair
from quickstudy.evaluation.result import Result, row_from_json, row_to_json
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.strict_json import number, plain
from quickstudy.selection.comparing import words

LEARNER, BASELINE = "learner", "baseline"
"""The kinds of entry."""


@dataclass(frozen=True)
class Entry:
    """One row of a comparison: a learner, or a baseline.

    ``name``               unlike that of any other row: "maml".
    ``title``              for tables and pages: "MAML".
    ``kind``               :data:`LEARNER` or :data:`BASELINE`.
    ``evaluations``        one for each seed, all on the same tasks; a single one where no seed
                           changes it, as for chance; none where the learner failed.
    ``train_seconds``, ``train_cpu_seconds``  of each seed's training over tasks: on the clock, and
                           of all cores together.
    ``parameters``, ``bytes``  numbers in the parameters, and bytes of parameters and buffers.
    ``steps``              optimiser steps of a training over tasks.
    ``failure``            why it has no result, in one line; "" where it has one.
    ``over_shots``         the result of the first seed's learner for other numbers of shots.
    """

    name: str
    title: str
    kind: str
    evaluations: tuple[Evaluation, ...] = ()
    train_seconds: tuple[float, ...] = ()
    train_cpu_seconds: tuple[float, ...] = ()
    parameters: int = 0
    bytes: int = 0
    steps: int = 0
    failure: str = ""
    over_shots: Mapping[int, Result] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it has no result."""
        return not self.evaluations

    @property
    def results(self) -> tuple[Result, ...]:
        """The result of the first score for each evaluation; ValueError for several kinds."""
        return tuple(evaluation.main for evaluation in self.evaluations)

    def repeated(self, trainings: int) -> tuple[Result, ...]:
        """One result for each of ``trainings``: where no seed changes it, the same one again."""
        return self.results * trainings if len(self.evaluations) == 1 else self.results

    @property
    def adapt_seconds(self) -> float:
        """Mean over seeds of the median seconds of one adaptation; NaN where not measured."""
        return _mean([each.seconds_per_adaptation for each in self.evaluations])

    @property
    def train_time(self) -> float:
        """Mean seconds of a training on the clock; NaN where nothing was measured."""
        return _mean(self.train_seconds)

    @property
    def train_cpu_time(self) -> float:
        """Mean seconds of a training, of all cores together; NaN where nothing was measured."""
        return _mean(self.train_cpu_seconds)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, without times, which differ from one run to the next."""
        timeless = (replace(each, seconds_per_adaptation=math.nan) for each in self.evaluations)
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "evaluations": [each.to_json() for each in timeless],
            "over_shots": {str(n): row_to_json(row) for n, row in self.over_shots.items()},
        }

    def times(self) -> dict[str, Any]:
        """Seconds of each seed's training (on the clock and of all cores) and of an adaptation."""
        return {
            "train_seconds": plain(list(self.train_seconds)),
            "train_cpu_seconds": plain(list(self.train_cpu_seconds)),
            "adapt_seconds": [plain(each.seconds_per_adaptation) for each in self.evaluations],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], times: Mapping[str, Any] | None = None) -> Entry:
        """What :meth:`to_json` gave, with what :meth:`times` gave, where that is known."""
        times = times or {}
        evaluations = [Evaluation.from_json(each) for each in values["evaluations"]]
        adapt = number(times.get("adapt_seconds", [None] * len(evaluations)))
        return Entry(
            **{name: values[name] for name in _PLAIN},
            evaluations=tuple(
                replace(each, seconds_per_adaptation=seconds)
                for each, seconds in zip(evaluations, adapt, strict=True)
            ),
            train_seconds=tuple(number(times.get("train_seconds", []))),
            train_cpu_seconds=tuple(number(times.get("train_cpu_seconds", []))),
            over_shots={int(n): row_from_json(row) for n, row in values["over_shots"].items()},
        )


_PLAIN = ("name", "title", "kind", "parameters", "bytes", "steps", "failure")


@dataclass(frozen=True)
class Comparison:
    """Learners and baselines on the same tasks, by one protocol, and every pair of them.

    ``entries``    in the order in which they were given, baselines after learners.
    ``pairs``      every pair of entries that have results.
    ``matters``    the difference that matters, in the score's unit (0.005 is half a point).
    ``protocol``   "inductive" or "transductive": the two are never ranked together.
    ``figures``    by name, the mean of each entry with its two intervals.
    ``mean_ranks`` by name, the mean over tasks of the rank (1 is best, ties share), with failed
                   learners last.
    ``settings``   data, ways, shots, budget, seeds, number of tasks, fingerprint, commit, where
                   they are known.
    ``left_out``   by name, why a baseline is not in the table.
    """

    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    matters: float
    protocol: str
    figures: Mapping[str, Figures] = field(default_factory=dict)
    mean_ranks: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def learners(self) -> tuple[Entry, ...]:
        """The entries that are learners."""
        return tuple(entry for entry in self.entries if entry.kind == LEARNER)

    @property
    def baselines(self) -> tuple[Entry, ...]:
        """The entries that are baselines."""
        return tuple(entry for entry in self.entries if entry.kind == BASELINE)

    @property
    def failures(self) -> tuple[Entry, ...]:
        """The learners without a result."""
        return tuple(entry for entry in self.entries if entry.failed)

    @property
    def ranking(self) -> tuple[Entry, ...]:
        """All entries, the best mean first, and those that failed last."""
        done = [entry for entry in self.entries if not entry.failed]
        sign = -1.0 if self._higher_is_better else 1.0
        done.sort(key=lambda entry: sign * self.figures[entry.name].mean)
        return (*done, *self.failures)

    @property
    def trainings(self) -> int:
        """How many trainings the learners have: the number of seeds."""
        return max((len(entry.evaluations) for entry in self.entries), default=0)

    @property
    def tasks(self) -> int:
        """The number of test tasks; 0 where every entry failed."""
        return next((e.evaluations[0].tasks for e in self.entries if not e.failed), 0)

    @property
    def fingerprint(self) -> str:
        """Of the test tasks; "" where every entry failed."""
        return next((e.evaluations[0].fingerprint for e in self.entries if not e.failed), "")

    @property
    def unit(self) -> str:
        """Of the score: "%" for a share, else ""."""
        return next((entry.results[0].unit for entry in self.entries if not entry.failed), "")

    @property
    def score(self) -> str:
        """The score's name, such as "accuracy"."""
        return next((entry.results[0].score for entry in self.entries if not entry.failed), "")

    @property
    def _higher_is_better(self) -> bool:
        done = (entry.results[0] for entry in self.entries if not entry.failed)
        return next((result.higher_is_better for result in done), True)

    def entry(self, name: str) -> Entry:
        """The entry called ``name``; KeyError where there is none."""
        return {entry.name: entry for entry in self.entries}[name]

    def pair(self, first: str, second: str) -> Pair:
        """The pair of two entries in this order or the other; KeyError where there is none."""
        found = {frozenset((pair.first, pair.second)): pair for pair in self.pairs}
        return found[frozenset((first, second))]

    def __str__(self) -> str:
        done = [entry for entry in self.ranking if not entry.failed]
        head = ("rank", "", self.score, "these classes", "other trainings, other classes")
        rows = [(*head, "mean rank", "trained in", "(CPU)", "adapts in")]
        for place, entry in enumerate(done, 1):
            found = self.figures[entry.name]
            rows.append((
                str(place), entry.title, wording.score(found.mean, self.unit),
                words.range_of(found.these, self.unit), words.range_of(found.others, self.unit),
                f"{self.mean_ranks[entry.name]:.2f}", words.seconds(entry.train_time),
                words.seconds(entry.train_cpu_time), words.seconds(entry.adapt_seconds),
            ))  # fmt: skip
        learners = {entry.name for entry in self.learners}
        unknown = next((f.others_over for f in self.figures.values() if f.others is None), "")
        return "\n".join([
            self.heading,
            *words.columns(rows),
            *(f"failed, and ranked last: {e.title}: {e.failure}" for e in self.failures),
            *(f"no {name}: {why}" for name, why in self.left_out.items()),
            *([
                f"other trainings, other classes: not known, since {unknown}; verdicts are of "
                "these alone"
            ] if unknown else []),
            *(words.sentence(p) for p in self.pairs if {p.first, p.second} <= learners),
        ])  # fmt: skip

    @property
    def heading(self) -> str:
        """What the table is of, in one line."""
        least = f"{100 * self.matters:g} points" if self.unit == "%" else f"{self.matters:g}"
        return (
            f"{self.protocol}, {count(self.tasks, 'task')}, {count(self.trainings, 'training')} of "
            f"each learner, 95% intervals; {least} or more matter"
        )

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with the score of every task and without times."""
        return {
            "protocol": self.protocol,
            "matters": self.matters,
            "settings": dict(self.settings),
            "left_out": dict(self.left_out),
            "entries": [entry.to_json() for entry in self.entries],
            "figures": {name: _figures_to_json(each) for name, each in self.figures.items()},
            "mean_ranks": {name: plain(rank) for name, rank in self.mean_ranks.items()},
            "ranking": [entry.name for entry in self.ranking],
            "pairs": [pair.to_json() for pair in self.pairs],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], times: Mapping[str, Any] | None = None) -> Comparison:
        """What :meth:`to_json` gave; ``times`` by the name of each entry."""
        times = times or {}
        return Comparison(
            tuple(Entry.from_json(each, times.get(each["name"])) for each in values["entries"]),
            tuple(Pair.from_json(each) for each in values["pairs"]),
            values["matters"],
            values["protocol"],
            {name: _figures_from_json(each) for name, each in values["figures"].items()},
            {name: number(rank) for name, rank in values["mean_ranks"].items()},
            values["settings"],
            values["left_out"],
        )


def _figures_to_json(found: Figures) -> dict[str, Any]:
    return {
        "mean": plain(found.mean),
        "these": found.these.to_json(),
        "others": None if found.others is None else found.others.to_json(),
        "others_over": found.others_over,
    }


def _figures_from_json(values: Mapping[str, Any]) -> Figures:
    others = values["others"]
    return Figures(
        number(values["mean"]),
        Interval.from_json(values["these"]),
        None if others is None else Interval.from_json(others),
        values["others_over"],
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
