"""What tuning found: its trials, the best of them, and whether that is better than before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from quickstudy.base.shown import told
from quickstudy.base.words import count
from quickstudy.evaluation import wording
from quickstudy.evaluation.paired import Pair, pairs
from quickstudy.evaluation.result import Result, row_from_json
from quickstudy.evaluation.strict_json import plain
from quickstudy.learners.cards import Space
from quickstudy.selection.tuning.space import RATE, in_words, options_of, space_in_words
from quickstudy.selection.tuning.trial import Row

MATTERS = 0.005
"""The least difference of shares that matters: half a point."""

SHOWN = 10
"""Trials in the table, the best ones."""


@dataclass(frozen=True)
class Tuned:
    """The trials of a tuning, by place.

    ``score``, ``unit``  the name of the score by which trials are judged, and its unit.
    ``asked``            how many trials there are to be.
    ``tasks``            new validation tasks on which the best and the usual settings are compared.
    ``importance``       how much of the differences each setting explains; {} for few trials.
    ``storage``          where the trials are kept; "" for memory.
    """

    trials: tuple[Row, ...]
    space: Mapping[str, Space]
    score: str
    unit: str
    higher_is_better: bool
    asked: int
    tasks: int
    importance: Mapping[str, float] = field(default_factory=dict)
    storage: str = ""

    @property
    def complete(self) -> list[Row]:
        """The trials that came to their end, the best first."""
        done = [row for row in self.trials if row.state == "complete" and row.score is not None]
        sign = -1.0 if self.higher_is_better else 1.0
        return sorted(done, key=lambda row: (sign * (row.score or 0.0), row.place))

    @property
    def best(self) -> Row:
        """The best trial; ValueError where none came to its end."""
        if self.complete:
            return self.complete[0]
        failed = [row for row in self.trials if row.state == "failed"]
        if not failed:
            raise ValueError("tune: no trial has come to its end yet. Go on with the same command.")
        raise ValueError(
            f"tune: all of {count(len(failed), 'trial')} failed, the first with {failed[0].reason} "
            f"({in_words(failed[0].settings)}). Mend the learner or the data, and give another "
            "storage."
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the best trial, by name; {} where these are the usual ones."""
        return dict(self.best.settings) if self.best.place else {}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the constructor among the best settings."""
        return options_of(self.settings)

    @property
    def rate(self) -> float | None:
        """The learning rate of training among the best settings; None where it was not tuned."""
        return self.settings.get(RATE)

    @property
    def gain(self) -> Pair | None:
        """The best settings against the usual ones, on tasks by which no trial was chosen.

        None where these are the same, where the usual settings failed, and where a task has no
        score.
        """
        best, usual = self.judged(self.best), self.judged(self.trials[0])
        scored = best and usual and bool((best.values + usual.values).isfinite().all())
        if not self.best.place or best is None or usual is None or not scored:
            return None
        matters = MATTERS if self.unit == "%" else 0.0
        (pair,) = pairs({f"trial {self.best.place}": [best], "usual": [usual]}, matters)
        return pair

    def judged(self, row: Row) -> Result | None:
        """The result of a trial on the new validation tasks; the best trials have one."""
        if row.facts is None:
            return None
        try:
            return row_from_json(row.facts)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"tune: the record of trial {row.place} is damaged ({told(error)}). Restore the "
                "storage, or give another one."
            ) from error

    def number(self, state: str) -> int:
        """How many trials are in this state."""
        return sum(row.state == state for row in self.trials)

    @property
    def counted(self) -> str:
        """The trials in words: "20 trials: 8 complete, 12 cut short"."""
        names = {"complete": "complete", "pruned": "cut short", "failed": "failed",
                 "running": "running", "waiting": "to be done again"}  # fmt: skip
        parts = [f"{n} {name}" for state, name in names.items() if (n := self.number(state))]
        return f"{count(len(self.trials), 'trial')}: {', '.join(parts)}"

    @property
    def sentences(self) -> list[str]:
        """Whether tuning paid, and what else must be known to read the table."""
        found = [self.counted]
        if self.complete:
            found.append(self._verdict())
        if failed := [row for row in self.trials if row.state == "failed"]:
            found.append(f"trial {failed[0].place} failed: {failed[0].reason}")
        if self.importance:
            most = sorted(self.importance.items(), key=lambda item: -item[1])[:3]
            found.append("settings that matter most: " + ", ".join(
                f"{name} {share:.0%}" for name, share in most
            ))  # fmt: skip
        return found

    def _verdict(self) -> str:
        if not self.best.place:
            return "no settings were better than the usual ones, which are those of trial 0"
        gain = self.gain
        if gain is None:
            return "the usual settings have no score to compare with"
        low, high = (wording.difference(x, self.unit) for x in (gain.these.low, gain.these.high))
        best, usual = (
            wording.score(found.mean, self.unit)
            for row in (self.best, self.trials[0]) if (found := self.judged(row))
        )  # fmt: skip
        return (
            f"trial {self.best.place} against the usual settings, on {self.tasks} new validation "
            f"tasks: {gain.verdict}, {best} against {usual}, difference "
            f"{wording.difference(gain.difference, self.unit)} (these classes, one training each: "
            f"95% interval {low} to {high}; other trainings, other classes: {gain.others_over})"
        )

    def table(self) -> list[tuple[str, str, str, str]]:
        """Trial, score on validation, score on new tasks and settings; the best trials, then 0."""
        chosen = self.complete[:SHOWN]
        if self.trials and self.trials[0] not in chosen:
            chosen.append(self.trials[0])
        return [
            (
                f"{row.place}" + (" (usual)" if not row.place else ""),
                row.state if row.score is None else wording.score(row.score, self.unit),
                "" if (judged := self.judged(row)) is None else judged.figure,
                in_words(row.settings),
            )
            for row in chosen
        ]

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: every trial, the best settings, and the comparison with the usual ones."""
        best = self.best.place if self.complete else None
        return {
            "score": self.score,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "asked": self.asked,
            "space": {name: space_in_words(values) for name, values in self.space.items()},
            "best": best,
            "settings": self.settings if self.complete else None,
            "gain": None if best is None or (gain := self.gain) is None else gain.to_json(),
            "importance": dict(self.importance),
            "trials": [
                {key: value for key, value in asdict(row).items() if key != "facts"}
                | {"score": plain(row.score), "reports": plain(list(row.reports)),
                   "judged": None if (found := self.judged(row)) is None else {
                       "mean": found.mean, "half_width": plain(found.half_width),
                       "values": plain(found.values.tolist())}}
                for row in self.trials
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        """The table and the sentences as plain text."""
        head = ("trial", f"{self.score}, validation", "new tasks", "settings")
        lines = [head, *self.table()]
        widths = [max(len(line[i]) for line in lines) for i in range(3)]
        rows = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[3]])
                for line in lines]  # fmt: skip
        return "\n".join([*(row.rstrip() for row in rows), *self.sentences])
