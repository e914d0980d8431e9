"""``quickstudy.recommend``: which learner for these data, by a race on held-out classes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.errors import first_line
from quickstudy.base.shown import shown
from quickstudy.base.words import count
from quickstudy.core import TaskSource
from quickstudy.evaluation import wording
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.paired import figures, pairs
from quickstudy.selection.candidates import FEWEST, Problem
from quickstudy.selection.contender import one_result
from quickstudy.selection.finals import Finalist, margin, run_finals, second, taken
from quickstudy.selection.given import Asked, problem_of
from quickstudy.selection.plan import Plan, by_minutes, by_steps, costs_of, shares
from quickstudy.selection.race import Runner, Say, race
from quickstudy.selection.recommendation import MoreShots, Recommendation, Row
from quickstudy.selection.rules import rules_for
from quickstudy.tasks.numbering import Stream

MORE_SHOTS = (1, 5, 10, 20)
"""Numbers of rows of each class that a learner is scored with beyond those asked for."""

SEEDS = 3
"""Trainings of each finalist: the fewest for an interval over other trainings."""


def recommend(
    data: Any,
    targets: Any = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    target: str | None = None,
    sources: Mapping[str, Any] | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    labelled: int = 10,
    tasks: int = 600,
    seeds: int = SEEDS,
    matters: float = 0.005,
    seed: int = 0,
    say: Say | None = None,
) -> Recommendation:
    """Race what fits ``data``, and say what to use, what score to expect, why, and what is second.

    ``data``     few-shot classes: a source (:func:`quickstudy.episodes`), a data set, labelled rows
                 or a folder with a folder of pictures for each class; functions: any other source;
                 named tasks (:func:`quickstudy.tasks.domains`); domains: those of
                 :func:`quickstudy.datasets.load_domains` with ``target``, or a source of
                 :func:`quickstudy.tasks.transfer`; an array X, a list of texts, or a DataFrame.
    ``targets``  y of an array or of texts: classes, or real numbers.
    ``target``   of a DataFrame, the column to predict; of domains, the name of the target.
    ``sources``  name -> (X, y) or DataFrame of other places, beside the array or DataFrame.
    ``minutes``  the time to take, 10 by default. The candidates' steps follow from how fast they
                 are here, so another machine may train them longer or shorter.
    ``steps``    in place of minutes: the steps of a finalist, the same on every machine.
    ``ways``, ``shots``, ``queries``  of the tasks, where ``data`` does not say them.
    ``labelled`` of domains and tables: target rows, of each class, that the learners get.
    ``tasks``    test tasks of the expected score, at most.
    ``seeds``    trainings of each finalist; with fewer than 3 nothing is known about others.
    ``matters``  the difference of scores below which the simpler of two learners is taken: a share,
                 0.005 is half a point. Of scores without a unit, it is 1% of the best.
    ``say``      called with what is done next; None says nothing.

    The candidates (transfer, multi-task and meta-learners, and learners of your rows alone) are
    raced by successive halving on validation classes (or tasks, or rows), see
    :mod:`quickstudy.selection.race`. Those that are left train anew with ``seeds`` seeds. The best
    on validation tasks is taken, or the simplest that is as good; its expected score is of test
    classes on which nothing was decided. A candidate that fails leaves with its reason.

    With fewer than 8 classes, tasks or rows of a class there is nothing to race on: the answer is
    then that of the rules in ``docs/how-to-choose.md``.

    Raises ValueError for data without rows or with one class, for minutes or steps that are not
    positive, for columns that are not numbers or miss values, for a target that is not there, and
    where every candidate failed.

    >>> import torch, quickstudy as qs
    >>> x = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    >>> found = qs.recommend(x, [0, 1, 2] * 4)
    >>> found.raced, found.use
    (False, 'A linear or kernel machine on your rows alone')
    """
    budget = _budget(minutes, steps)
    asked = Asked(
        targets, target, sources, ways, shots, queries, labelled, seed, budget, pretend=False
    )
    say = say or (lambda _: None)
    _check(tasks, seeds, matters, seed)
    problem = problem_of(data, asked)
    settings = {"minutes": None if steps else budget / 60, "steps": steps, "seeds": seeds,
                "tasks": tasks, "matters": matters, "seed": seed}  # fmt: skip
    if problem.too_few:
        return replace(by_rules(problem), settings=settings)
    with TemporaryDirectory(prefix="quickstudy-race-") as name:
        folder = Path(name)
        began = time.perf_counter()
        plan = _plan(problem, steps, budget, seeds, tasks, seed, folder, say)
        runners = race(problem, plan, folder, seed, say)
        finals, failures = run_finals(problem, plan, runners, folder, seed, say)
        if not finals:
            raise ValueError(_all_failed(runners, failures))
        found = _recommended(problem, plan, runners, finals, failures, matters, seed, say)
        settings |= {"seconds": round(time.perf_counter() - began, 1)}
    return replace(found, settings=settings)


def explain(
    data: Any,
    targets: Any = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    target: str | None = None,
    sources: Mapping[str, Any] | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    labelled: int = 10,
    tasks: int = 600,
    seeds: int = SEEDS,
    seed: int = 0,
) -> str:
    """The plan of :func:`recommend` with these arguments, as text: candidates, rungs, tasks, time.

    Nothing is trained: a few steps of each candidate are timed, and their weights thrown away.
    """
    budget = _budget(minutes, steps)
    asked = Asked(
        targets, target, sources, ways, shots, queries, labelled, seed, budget, pretend=True
    )
    _check(tasks, seeds, 0.0, seed)
    problem = problem_of(data, asked)
    if problem.too_few:
        return str(by_rules(problem))
    with TemporaryDirectory(prefix="quickstudy-race-") as name:
        plan = _plan(problem, steps, budget, seeds, tasks, seed, Path(name), lambda _: None)
    return _told(problem, plan)


def _budget(minutes: float | None, steps: int | None) -> float:
    """Seconds; ValueError for minutes or steps that are not positive, and for both."""
    if minutes is not None and steps is not None:
        raise ValueError("recommend: give minutes or steps, not both; they limit the same.")
    if steps is not None:
        check_count("recommend", "steps", steps, 1)
        return math.inf
    minutes = 10.0 if minutes is None else minutes
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    if not number or not 0 < minutes < math.inf:
        raise ValueError(
            f"recommend: minutes must be a positive number; found {shown(minutes)}. A few minutes "
            "are enough to tell most learners apart."
        )
    return 60.0 * minutes


def _check(tasks: int, seeds: int, matters: float, seed: int) -> None:
    check_count("recommend", "tasks", tasks, 2)
    check_count("recommend", "seeds", seeds, 1)
    check_count("recommend", "seed", seed, 0)
    if not 0 <= matters < 1:
        raise ValueError(
            f"recommend: matters must be a share, 0 or more and below 1; found {matters}. Half a "
            "point is 0.005."
        )


def _plan(
    problem: Problem, steps: int | None, seconds: float, seeds: int, tasks: int, seed: int,
    folder: Path, say: Callable[[str], object],
) -> Plan:  # fmt: skip
    if steps is not None:
        return by_steps(problem, steps, seeds, tasks, {})
    began = time.perf_counter()
    costs, failures = costs_of(problem, seed, folder, say)
    left = max(0.5 * seconds, seconds - (time.perf_counter() - began))
    return by_minutes(problem, left / 60, seeds, tasks, costs, failures)


def by_rules(problem: Problem) -> Recommendation:
    """The answer of the rules, where there is too little to race on."""
    rules = rules_for(problem.rules)
    few = count(problem.raced_on, problem.unit, f"{problem.unit}es"
                if problem.unit.endswith("s") else f"{problem.unit}s")  # fmt: skip
    first = rules[0].sentence.split("try first ", 1)[1].split("; ")[0]
    return Recommendation(
        problem.kind, problem.about, first[0].upper() + first[1:],
        (f"A race needs at least {FEWEST}; found {few}. So nothing was raced, and this is the "
         "answer of the rules in docs/how-to-choose.md, which were measured on other data.",),
        rules=tuple(rule.sentence for rule in rules), notes=problem.notes,
        left_out=problem.left_out,
    )  # fmt: skip


def _all_failed(runners: tuple[Runner, ...], failures: Mapping[str, str]) -> str:
    reasons = [f"{each.name}: {each.failure}" for each in runners if each.failure]
    reasons += [f"{name}: {why}" for name, why in failures.items()]
    return (
        f"recommend: needs at least 1 candidate that runs; all failed. {'; '.join(reasons)}. Look "
        "at the first of these."
    )


def _recommended(
    problem: Problem, plan: Plan, runners: tuple[Runner, ...], finals: list[Finalist],
    failures: Mapping[str, str], matters: float, seed: int, say: Say,
) -> Recommendation:  # fmt: skip
    first = taken(finals, matters)
    other = second(finals, first)
    results = first.results
    by_name = {each.candidate.name: each.results for each in finals}
    beside = pairs(by_name, margin(finals, matters), seed) if len(finals) > 1 else ()
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
        problem.kind, problem.about, candidate.advice, tuple(_why(finals, first, matters)),
        candidate.name, candidate.title, candidate.family, results[0].score, results[0].unit,
        results[0].higher_is_better, figures(results, seed), bool(first.test),
        other.candidate.title if other else "", beside,
        _more_shots(problem, plan, first, seed, say), rows, problem.left_out,
        tuple(rule.sentence for rule in rules_for(problem.rules)), problem.notes,
        learner=first.learner,
    )  # fmt: skip


def _mean(finalist: Finalist) -> float:
    return sum(each.mean for each in finalist.validation) / len(finalist.validation)


def _why(finals: list[Finalist], first: Finalist, matters: float) -> list[str]:
    """Why the first was taken: beside the best, and beside the best of the rows alone."""
    unit = first.validation[0].unit
    best = max(finals, key=lambda each: each.goodness)
    score = wording.score(_mean(first), unit)
    lines = []
    if best is first:
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
        lines.append(f"Each of its {len(first.validation)} trainings took {first.steps} steps.")
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


def _told(problem: Problem, plan: Plan) -> str:
    """The plan as text."""
    trained = [each for each in problem.candidates if each.steps]
    lines = [
        problem.about,
        "",
        "candidates (steps at the end of each rung; of each final training)",
    ]
    for each in problem.candidates:
        if each.name in plan.failures:
            lines.append(f"  {each.title}: cannot be raced: {plan.failures[each.name]}")
        elif each.steps:
            steps = [str(rung[each.name]) for rung in plan.rungs]
            lines.append(f"  {each.title}: {', '.join(steps)}; {plan.final[each.name]}")
        else:
            lines.append(f"  {each.title}: nothing is trained over tasks")
    lines += [f"  left out: {name}: {why}" for name, why in problem.left_out.items()]
    there = sum(each.name not in plan.failures for each in trained)
    lines += [
        "",
        f"rungs     {shares([there, *plan.keep])} trained, {plan.tasks} validation tasks",
        f"finals    {plan.seeds} trainings of each that is left, {plan.test_tasks} test tasks",
    ]
    if math.isfinite(plan.seconds):
        lines.append(f"time      about {plan.seconds / 60:.1f} minutes on this machine")
    return "\n".join(lines)
