"""What ``recommend`` returns: use this, why, and all that was measured for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from quickstudy.core import Learner
from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import Interval
from quickstudy.evaluation.paired import Figures, Pair
from quickstudy.evaluation.strict_json import plain
from quickstudy.selection.comparing.words import sentence


@dataclass(frozen=True)
class Row:
    """One candidate of the race.

    ``laps``     (steps, score, half its interval over tasks) at the end of each rung that it ran.
    ``final``    mean on validation tasks after its last trainings; NaN where it was not there.
    ``failure``  why it left, in one line; "" where nothing failed.
    """

    name: str
    title: str
    family: str
    laps: tuple[tuple[int, float, float], ...]
    final: float = math.nan
    failure: str = ""


@dataclass(frozen=True)
class MoreShots:
    """The score of the recommended learner, as it is, with so many shots; or why there is none."""

    shots: int
    figure: str = ""
    mean: float = math.nan
    failure: str = ""


@dataclass(frozen=True)
class Recommendation:
    """What to use for the data, and the evidence.

    ``problem``   the data and the tasks, in words; ``kind``, of the problem.
    ``use``       the recommendation: a sentence. ``name``, ``title``, ``family`` of the candidate;
                  "" where rules answer, and nothing was raced.
    ``why``       the reasons, in sentences.
    ``expected``  the score to expect, with the interval for these classes and the one for other
                  trainings and other classes (None: not known); None where rules answer.
    ``held_out``  whether ``expected`` is of classes or rows on which nothing was decided.
    ``metric``, ``unit``, ``higher_is_better``  of all scores.
    ``second``    the title of the next best, "" for none; ``pairs``, all finalists beside one
                  another on the same tasks.
    ``more_shots``  what more rows of each class would bring.
    ``rows``      every candidate, with its scores; ``left_out``, which were not there, and why.
    ``rules``     sentences of ``docs/how-to-choose.md`` that fit the problem.
    ``notes``     what was noticed in the data.
    ``learner``   the recommended learner, trained, ready to adapt to your support sets; None where
                  rules answer.
    ``settings``  minutes or steps, seed, tasks, seeds.
    """

    kind: str
    problem: str
    use: str
    why: tuple[str, ...]
    name: str = ""
    title: str = ""
    family: str = ""
    metric: str = ""
    unit: str = ""
    higher_is_better: bool = True
    expected: Figures | None = None
    held_out: bool = False
    second: str = ""
    pairs: tuple[Pair, ...] = ()
    more_shots: tuple[MoreShots, ...] = ()
    rows: tuple[Row, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    learner: Learner | None = field(default=None, repr=False, compare=False)

    @property
    def raced(self) -> bool:
        """Whether it rests on a race; else on rules alone."""
        return bool(self.rows)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, without the learner."""
        values = {
            name: getattr(self, name)
            for name in ("kind", "problem", "use", "why", "name", "title", "family", "metric",
                         "unit", "higher_is_better", "held_out", "second", "rules", "notes")
        }  # fmt: skip
        values |= {
            "expected": None if self.expected is None else _figures(self.expected),
            "pairs": [pair.to_json() for pair in self.pairs],
            "more_shots": [asdict(each) for each in self.more_shots],
            "rows": [asdict(row) for row in self.rows],
            "left_out": dict(self.left_out), "settings": dict(self.settings),
        }  # fmt: skip
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """``value`` as strict JSON, with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else plain(value)


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _figures(figures: Figures) -> dict[str, Any]:
    return {"mean": figures.mean, "these": _interval(figures.these),
            "others": _interval(figures.others), "others_over": figures.others_over}  # fmt: skip


def expected_lines(figures: Figures, unit: str, of_whom: str) -> list[str]:
    """The expected score in words, with both intervals."""

    def told(interval: Interval | None) -> str:
        if interval is None:
            return "not known"
        return f"{wording.score(interval.low, unit)} to {wording.score(interval.high, unit)}"

    return [
        f"expected score   {wording.score(figures.mean, unit)} on {of_whom}",
        f"  these classes                    {told(figures.these)}",
        f"  other trainings, other classes   {told(figures.others)} ({figures.others_over})",
    ]


def _lines(found: Recommendation) -> list[str]:
    lines = [found.problem, "", f"Use this: {found.use}."]
    if found.expected is not None:
        whom = "test tasks" if found.held_out else "validation tasks, on which it was chosen too"
        lines += ["", *expected_lines(found.expected, found.unit, f"{whom}, {found.metric}")]
    lines += ["", "Why", *(f"  {each}" for each in found.why)]
    if found.second:
        lines += ["", f"Second: {found.second}"]
    if beside := _beside(found):
        lines += ["", "Beside the other finalists", *(f"  {each}" for each in beside)]
    if found.more_shots:
        lines += ["", "More shots", *(
            f"  {each.shots:>3}   {each.figure or 'not measured: ' + each.failure}"
            for each in found.more_shots
        )]  # fmt: skip
    if found.rows:
        lines += ["", "The race (validation tasks; steps: score)"]
        lines += [f"  {_race_line(row, found.unit)}" for row in found.rows]
    for title, notes in (
        ("Left out", [f"{name}: {why}" for name, why in found.left_out.items()]),
        ("Noticed", found.notes),
        ("What docs/how-to-choose.md says", found.rules),
    ):
        if notes:
            lines += ["", title, *(f"  {note}" for note in notes)]
    return lines


def _beside(found: Recommendation) -> list[str]:
    """What is known of the recommended one beside each other finalist, in sentences."""
    titles = {row.name: row.title for row in found.rows}
    return [
        sentence(replace(pair, first=titles[pair.first], second=titles[pair.second]))
        for pair in found.pairs
        if found.name in (pair.first, pair.second)
    ]


def _race_line(row: Row, unit: str) -> str:
    laps = ", ".join(f"{s}: {wording.score(mean, unit)}" for s, mean, _ in row.laps)
    final = "" if math.isnan(row.final) else f"; finals {wording.score(row.final, unit)}"
    left = f"; left the race: {row.failure}" if row.failure else ""
    return f"{row.title}  {f'{laps}{final}{left}'.removeprefix('; ')}"
