"""What a race compares: candidates, each a way to learn, and the problem that they are raced on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quickstudy.core import Learner, TaskSource
from quickstudy.objectives import Objective
from quickstudy.selection.making import made
from quickstudy.training.optimisers import OptimiserMaker, adam

FEWEST = 8
"""Classes, tasks or rows of a class below which nothing is raced: the rules answer instead."""


@dataclass(frozen=True)
class Sources:
    """The tasks of one candidate. Task i of one is task i of all others.

    ``train``             to train on; None where nothing is trained.
    ``validation``        on which the race is decided.
    ``test``              that nothing is decided on: of these is the expected score. None where the
                          data have too few classes or rows for that.
    ``raw_validation``, ``raw_test``  where the sources give features in the place of inputs: the
                          same tasks with their inputs, which the fingerprint is of.
    """

    train: TaskSource | None
    validation: TaskSource
    test: TaskSource | None
    raw_validation: TaskSource | None = None
    raw_test: TaskSource | None = None


def as_trained(learner: Learner) -> Learner:
    """The learner itself, which is what most candidates are used as."""
    return learner


@dataclass(frozen=True)
class Candidate:
    """One way to learn from the data at hand.

    ``name``, ``title``  short, and in words.
    ``family``    "target only", "pretrained", "meta-learning", "pooled", "multi-task", "transfer".
    ``advice``    the sentence that recommends it.
    ``make``      a function of no argument that makes a new learner; called with torch's seed set.
    ``sources``   the tasks as it reads them.
    ``steps``     optimiser steps of its usual training over tasks; 0 where nothing is trained.
    ``used``      from the trained learner to the one that adapts to new tasks, where it is another.
    ``shots``     k -> test tasks of k shots as it reads them; ValueError for too few rows. None
                  where the number of rows is not ours to choose.
    """

    name: str
    title: str
    family: str
    advice: str
    make: Callable[[], Learner]
    sources: Sources
    steps: int = 0
    tasks_per_step: int = 1
    optimiser: OptimiserMaker = field(default_factory=adam)
    objective: Objective | None = None
    used: Callable[[Learner], Learner] = as_trained
    shots: Callable[[int], TaskSource] | None = None

    def made(self, seed: int) -> Learner:
        """A new learner, whose initial weights depend on ``seed`` alone."""
        return made(self.make, seed)


@dataclass(frozen=True)
class Problem:
    """Data, and the candidates that fit them.

    ``kind``        "few-shot classes", "functions", "named tasks", "domains" or "rows".
    ``about``       the data and the tasks, in words.
    ``unit``        of what the tasks are drawn: "class", "task" or "row".
    ``raced_on``    how many of them there are to race on; below :data:`FEWEST` nothing is raced.
    ``candidates``  simplest first.
    ``left_out``    candidates that would fit, and why each is not there: name -> reason.
    ``rules``       the rows of :data:`quickstudy.selection.recommending.rules.RULES` that fit, by
                    their keys.
    ``shots``       rows of each class in the support, where there is one number; 0 for none.
    ``tasks``       validation tasks, and test tasks, that there are; None for as many as asked for.
    ``notes``       what was noticed in the data, such as a harmful source.
    ``divisions``   the same candidates on further divisions of few classes, for the finals.
    """

    kind: str
    about: str
    unit: str
    raced_on: int
    candidates: tuple[Candidate, ...]
    rules: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    shots: int = 0
    tasks: int | None = None
    notes: tuple[str, ...] = ()
    divisions: tuple[tuple[Candidate, ...], ...] = ()

    @property
    def too_few(self) -> bool:
        """Whether there is too little to race on."""
        return self.raced_on < FEWEST

    def candidate(self, name: str, training: int = 0) -> Candidate:
        """The candidate called ``name``; of a final training, on the division that is its turn."""
        every = (self.candidates, *self.divisions)
        return next(each for each in every[training % len(every)] if each.name == name)
