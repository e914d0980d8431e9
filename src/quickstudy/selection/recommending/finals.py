"""The finals: those that are left train anew with several seeds, and one of them is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quickstudy.base.errors import first_line
from quickstudy.core import Learner
from quickstudy.evaluation.result import Result
from quickstudy.selection.recommending.candidates import Candidate, Problem
from quickstudy.selection.recommending.plan import MOST, Plan
from quickstudy.selection.recommending.race import Runner, Say, goodness, still_in
from quickstudy.selection.recommending.racer import Racer, one_result
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.training.schedules import cosine

UNTRAINED = 2
"""Candidates without training over tasks that reach the finals, beside the best of target only."""

SCORING, FEWEST_TESTED = 0.35, 20
"""Of the time for the finals, the share for scoring, and the fewest test tasks for it."""


@dataclass(frozen=True)
class Finalist:
    """A candidate after its last trainings, one for each seed.

    ``validation``  results on new tasks of the validation classes, on which it is chosen.
    ``test``        results on the test tasks, for the expected score; () where there are none.
    ``learner``     of the first seed, ready to adapt.
    """

    candidate: Candidate
    steps: int
    validation: tuple[Result, ...]
    test: tuple[Result, ...]
    learner: Learner

    @property
    def goodness(self) -> float:
        """The mean over seeds on validation tasks, greater where better."""
        return sum(map(goodness, self.validation)) / len(self.validation)

    @property
    def results(self) -> tuple[Result, ...]:
        """For the expected score: on test tasks; where there are none, on validation tasks."""
        return self.test or self.validation


def finalists(problem: Problem, plan: Plan, runners: Sequence[Runner]) -> list[Candidate]:
    """The best trained candidates, the best without training, and the best of target only."""
    by_name = {each.name: each for each in runners}
    trained = still_in(problem, plan, by_name)

    def best(names: list[str], keep: int) -> list[str]:
        fine = [name for name in names if by_name[name].goodness > -math.inf]
        return sorted(fine, key=lambda name: -by_name[name].goodness)[:keep]

    untrained = [each.name for each in problem.candidates if not each.steps]
    alone = [each.name for each in problem.candidates if each.family == "target only"]
    chosen = {*trained, *best(untrained, UNTRAINED), *best(alone, 1)}
    return [each for each in problem.candidates if each.name in chosen]


def within_time(
    problem: Problem, plan: Plan, runners: Sequence[Runner], seconds: float, tasks: int
) -> Plan:
    """``plan`` with finals of about ``seconds``, by how long the race took; untimed plans stay.

    Each final training has at least the steps of the race, else there are fewer trainings, at least
    one. Test tasks take :data:`SCORING` of the time, ``tasks`` at most.
    """
    if not math.isfinite(plan.seconds):
        return plan
    by_name = {each.name: each for each in runners}
    chosen = [(each, by_name[each.name].laps) for each in finalists(problem, plan, runners)]
    trained = [(each, laps) for each, laps in chosen if each.steps]
    per_step = {each.name: laps[-1].training / max(1, laps[-1].steps) for each, laps in trained}
    race = {each.name: laps[-1].steps for each, laps in trained}
    one_by_one = sum(laps[-1].scoring for _, laps in chosen) / plan.tasks  # of a task, by all
    left = max(0.0, seconds * (1 - SCORING))
    once = sum(per_step[name] * steps for name, steps in race.items())
    seeds = max(1, min(plan.seeds, int(left / once) if once else plan.seeds))
    share = left / (seeds * max(1, len(trained)))
    final = {
        each.name: min(
            max(race[each.name], int(share / max(per_step[each.name], 1e-6))), MOST * each.steps
        )
        for each, _ in trained
    }
    scored = SCORING * seconds / (seeds * one_by_one or 1e-9) - plan.tasks
    most = min(tasks, problem.tasks or tasks)
    test_tasks = max(min(FEWEST_TESTED, most), min(int(scored), most))
    return replace(plan, seeds=seeds, final={**plan.final, **final}, test_tasks=test_tasks)


def run_finals(
    problem: Problem,
    plan: Plan,
    runners: Sequence[Runner],
    folder: Path,
    seed: int,
    say: Say = lambda _: None,
) -> tuple[list[Finalist], dict[str, str]]:
    """The finalists, simplest first, and why others failed.

    Where few classes are divided several times, each training is on the next division.
    """
    found: list[Finalist] = []
    failures: dict[str, str] = {}
    for candidate in finalists(problem, plan, runners):
        try:
            found.append(_trained(problem, candidate, plan, folder, seed, say))
        except Exception as error:  # one candidate never stops the finals
            failures[candidate.name] = first_line(error)
    return found, failures


def _trained(
    problem: Problem, candidate: Candidate, plan: Plan, folder: Path, seed: int, say: Say
) -> Finalist:
    steps = plan.final.get(candidate.name, 0)
    validation: list[Result] = []
    test: list[Result] = []
    first: Racer | None = None
    for number in range(plan.seeds):
        told = f", {steps} steps" if steps else ""
        say(f"finals: {candidate.title}, training {number + 1} of {plan.seeds}{told}")
        mine = problem.candidate(candidate.name, number)
        racer = Racer(mine, seed + number, folder / f"final-{candidate.name}-{number}", cosine)
        if first is not None and not (steps or problem.divisions) and _alike(first, racer):
            validation.append(validation[0])  # nothing in it depends on the seed
            test += test[:1]
            continue
        racer.train_to(steps)
        first = first or racer
        # Other tasks than those of the race, on which the best looks better than it is.
        validation.append(one_result(racer.scored(plan.tasks, _others(mine, seed))))
        if mine.sources.test is not None:
            test.append(one_result(racer.scored(plan.test_tasks, seed, test=True)))
    assert first is not None
    return Finalist(candidate, steps, tuple(validation), tuple(test), first.used())


def _others(candidate: Candidate, seed: int) -> int:
    return seed if isinstance(candidate.sources.validation, FixedTasks) else seed + 1


def _alike(first: Racer, second: Racer) -> bool:
    """Whether two learners of different seeds have the same weights."""
    one, other = first.learner.state_dict(), second.learner.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def margin(finals: Sequence[Finalist], matters: float) -> float:
    """The difference that matters: of shares ``matters``, of other scores 1% of the best."""
    best = max(finals, key=lambda each: each.goodness)
    return matters if best.validation[0].unit == "%" else 0.01 * abs(best.goodness)


def taken(finals: Sequence[Finalist], matters: float) -> Finalist:
    """The simplest of those that are within the margin of the best."""
    best = max(each.goodness for each in finals)
    least = best - margin(finals, matters)
    return next(each for each in finals if each.goodness >= least)


def second(finals: Sequence[Finalist], first: Finalist) -> Finalist | None:
    """The best of the others."""
    others = [each for each in finals if each is not first]
    return max(others, key=lambda each: each.goodness) if others else None
