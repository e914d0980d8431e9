"""A trial: while it runs, and as it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PLACE, REASON, SECONDS, FACTS = "place", "reason", "seconds", "facts"


class Pruned(Exception):
    """The trial is worse than others were at this point, and ends here."""


@dataclass
class Trial:
    """A trial that is running.

    ``place``     0 for the first, with the usual settings; it is never cut short.
    ``seed``      of its training; for the first trial the tuning's own.
    ``settings``  the values to try, by name.
    """

    place: int
    seed: int
    settings: dict[str, Any]
    _trial: Any = field(repr=False)
    _sign: float
    _before: list[float] = field(repr=False)
    _reports: int = 0

    def report(self, score: float) -> None:
        """Tell the score so far; :class:`Pruned` where others were better after as many reports."""
        self._reports += 1
        self._trial.report(score, self._reports)
        if self._trial.should_prune() and self.place:
            raise Pruned

    def leads(self, score: float) -> bool:
        """Whether no finished trial has a better score."""
        return all(self._sign * score >= self._sign * other for other in self._before)


@dataclass(frozen=True)
class Row:
    """A trial as it is kept.

    ``state``    "complete", "pruned" (cut short), "failed" (with the ``reason``), "running" or
                 "waiting".
    ``score``    at its end, on validation tasks; None where it failed or has not ended.
    ``facts``    what the objective added, plain JSON.
    ``retries``  how often its process was killed.
    """

    place: int
    state: str
    settings: dict[str, Any]
    score: float | None
    reports: tuple[float, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    facts: Any = None
    retries: int = 0


Objective = Callable[[Trial], tuple[float, Any]]
"""Tries the trial's settings: its score, and facts to keep with it (plain JSON)."""


def seed_of(seed: int, place: int, what: str = "training") -> int:
    """31 bits that depend on all three; ``seed`` itself for the training of the first trial."""
    if place == 0 and what == "training":
        return seed
    digest = hashlib.blake2b(f"{seed} {place} {what}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def row_of(place: int, tries: list[Any], states: Any) -> Row:
    """The trial of one place: the first that ended by itself, else the last one."""
    done = [t for t in tries if t.state in (states.COMPLETE, states.PRUNED) or (
        t.state == states.FAIL and REASON in t.user_attrs
    )]  # fmt: skip
    trial = done[0] if done else tries[-1]
    names = {
        states.COMPLETE: "complete", states.PRUNED: "pruned", states.RUNNING: "running",
        states.WAITING: "waiting", states.FAIL: "failed" if done else "waiting",
    }  # fmt: skip
    ended = trial.state in (states.COMPLETE, states.PRUNED)
    reports = tuple(value for _, value in sorted(trial.intermediate_values.items()))
    return Row(
        place, names[trial.state], dict(trial.params), trial.value if ended else None, reports,
        str(trial.user_attrs.get(REASON, "")), float(trial.user_attrs.get(SECONDS, 0.0)),
        trial.user_attrs.get(FACTS), sum(t.state == states.FAIL for t in tries if t is not trial),
    )  # fmt: skip
