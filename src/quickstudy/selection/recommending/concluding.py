"""From a race and its finals to a recommendation: what, why, and what more shots would bring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quickstudy.base.errors import first_line
from quickstudy.base.words import count
from quickstudy.core import TaskSource
from quickstudy.evaluation import wording
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.over_divisions import figures_over_divisions, pairs_over_divisions
from quickstudy.evaluation.paired import figures, pairs
from quickstudy.selection.recommending.candidates import Problem
from quickstudy.selection.recommending.finals import Finalist, margin, second, taken
from quickstudy.selection.recommending.plan import Plan
from quickstudy.selection.recommending.race import Runner, Say
from quickstudy.selection.recommending.racer import one_result
from quickstudy.selection.recommending.recommendation import MoreShots, Recommendation, Row
from quickstudy.selection.recommending.rules import rules_for
from quickstudy.tasks.numbering import Stream

SHORT = 0.1
"""Share of a candidate's usual steps, below which its training is called short."""

MORE_SHOTS = (1, 5, 10, 20)
"""Numbers of rows of each class that a learner is scored with beyond those asked for."""


def recommended(
    problem: Problem, plan: Plan, runners: tuple[Runner, ...], finals: list[Finalist],
    failures: Mapping[str, str], matters: float, seed: int, say: Say,
) -> Recommendation:  # fmt: skip
    """What to use, from the finals, with the evidence of the race."""
    first = taken(finals, matters)
    other = second(finals, first)
    results = first.results
    by_name = {each.candidate.name: each.results for each in finals}
    paired = pairs_over_divisions if problem.divisions else pairs
    expected = (figures_over_divisions if problem.divisions else figures)(results, seed)
    beside = paired(by_name, margin(finals, matters), seed) if len(finals) > 1 else ()
    ends = {each.candidate.name: each for each in finals}
    rows = tuple(
        Row(
            runner.name, problem.candidate(runner.name).title,
            problem.candidate(runner.name).family,
            tuple((lap.steps, lap.result.mean, lap.result.half_width) for lap in runner.laps),
            _mean(ends[runner.name]) if runner.name in ends else math.nan,
            runner.failure or failures.get(runner.name, ""),
        )
        for runner in runners
    )  # fmt: skip
    candidate = first.candidate
    return Recommendation(
        problem.kind, problem.about, candidate.advice, tuple(_why(finals, first, matters, rows)),
        candidate.name, candidate.title, candidate.family, results[0].score, results[0].unit,
        results[0].higher_is_better, expected, bool(first.test),
        other.candidate.title if other else "", beside,
        _more_shots(problem, plan, first, seed, say), rows, problem.left_out,
        tuple(rule.sentence for rule in rules_for(problem.rules)), problem.notes,
        learner=first.learner,
    )  # fmt: skip


def _mean(finalist: Finalist) -> float:
    return sum(each.mean for each in finalist.validation) / len(finalist.validation)


def _why(finals: list[Finalist], first: Finalist, matters: float, rows: Sequence[Row]) -> list[str]:
    """Why the first was taken: beside the best, and beside the best of the rows alone."""
    unit = first.validation[0].unit
    best = max(finals, key=lambda each: each.goodness)
    score = wording.score(_mean(first), unit)
    lines = []
    if len(finals) == 1:
        lines.append(f"It was the only finalist; on validation tasks it has {score}.")
    elif best is first:
        lines.append(f"It was the best of {len(finals)} finalists on validation tasks: {score}.")
    else:
        lines.append(
            f"It is the simplest within {wording.difference(margin(finals, matters), unit)} of the "
            f"best on validation tasks: {score}, where {best.candidate.title} has "
            f"{wording.score(_mean(best), unit)}."
        )
    alone = [each for each in finals if each.candidate.family == "target only"]
    if alone and first not in alone:
        other = max(alone, key=lambda each: each.goodness)
        gain = wording.difference(first.goodness - other.goodness, unit)
        lines.append(
            f"Beside the best on your rows alone, {other.candidate.title}, it gains {gain}."
        )
    if first.steps:
        each = "Its training" if len(first.validation) == 1 else "Each of its trainings"
        lines.append(f"{each} took {count(first.steps, 'step')}.")
    short = [each for each in finals if 0 < each.steps < SHORT * each.candidate.steps]
    if short:
        told = ", ".join(
            f"{each.candidate.title} {each.steps} of {each.candidate.steps}" for each in short
        )
        lines.append(
            f"Finalists trained far shorter than usual (steps: {told}), so more minutes may change "
            "which is the best."
        )
    left = sum(bool(row.failure) for row in rows)
    if left:
        lines.append(
            f"{left} of {count(len(rows), 'candidate')} left the race for a reason that is not "
            "their score (see below), so nothing is said about them."
        )
    return lines


def _more_shots(
    problem: Problem, plan: Plan, first: Finalist, seed: int, say: Say
) -> tuple[MoreShots, ...]:
    make = first.candidate.shots
    if make is None or not problem.shots:
        return ()
    found = []
    for shots in (problem.shots, *(each for each in MORE_SHOTS if each > problem.shots)):
        say(f"{shots} shots")
        try:
            source: TaskSource = make(shots)
            stream = Stream.TEST if first.test else Stream.VALIDATION
            result = one_result(evaluate(
                first.learner, source, plan.test_tasks, seed=seed, stream=stream, baselines=False
            ))  # fmt: skip
            found.append(MoreShots(shots, result.figure, result.mean))
        except Exception as error:  # the data end, or the learner cannot
            found.append(MoreShots(shots, failure=first_line(error)))
            break
    return tuple(found)
