"""Kinds of task: tasks whose scores may be averaged, or pooled, into one result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from quickstudy.answers.custom import Custom
from quickstudy.base.shown import shown
from quickstudy.core import Answer, TaskSpec

Key = tuple[str, str]
"""A task's name and a score's name: the key of a result."""


@dataclass
class Kinds:
    """The kinds of task seen so far.

    ``answers``  for each task's name and score's name, one answer for all those tasks.
    ``first``    the keys of the answers' first scores.
    """

    answers: dict[Key, Answer] = field(default_factory=dict)
    first: set[Key] = field(default_factory=set)

    def add(self, spec: TaskSpec) -> None:
        """Count a task; ValueError where its answer and an earlier one share a key but not join."""
        answer = spec.answer
        self.first.add((spec.name, answer.score.name))
        for score in answer.scores:
            key = (spec.name, score.name)
            before = self.answers.setdefault(key, answer)
            joined = join(before, answer)
            if joined is None:
                raise _not_joined(key, before, answer)
            self.answers[key] = joined

    @property
    def listed(self) -> str:
        """All keys, as text for errors."""
        return ", ".join(map(str, self.answers))


def join(one: Answer, other: Answer) -> Answer | None:
    """One answer for both; None where they do not join."""
    return one if one == other else one.join(other)


def kind_of_all(specs: Iterable[TaskSpec]) -> TaskSpec | None:
    """One spec for all these tasks; None where they are of several names or answers."""
    first, *others = specs
    answer = first.answer
    for spec in others:
        joined = join(answer, spec.answer)
        if joined is None or spec.name != first.name:
            return None
        answer = joined
    return TaskSpec(answer, first.name)


def _not_joined(key: Key, one: Answer, other: Answer) -> ValueError:
    name, score = key
    tasks = f"tasks called {shown(name)}" if name else "tasks without a name"
    remedy = "a name of its own: qs.TaskSpec(answer, name)"
    if isinstance(one, Custom) and isinstance(other, Custom):  # functions equal only themselves
        remedy = "a name of its own, and make its loss once, not in each draw"
    return ValueError(
        f"evaluate: one {score} for several kinds of task would mean nothing; found {tasks} with "
        f"{one} and with {other}. Give each kind {remedy}."
    )
