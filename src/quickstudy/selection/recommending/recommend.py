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
from quickstudy.base.shown import shown
from quickstudy.base.words import count
from quickstudy.selection.recommending.candidates import FEWEST, Problem
from quickstudy.selection.recommending.concluding import recommended
from quickstudy.selection.recommending.finals import run_finals, within_time
from quickstudy.selection.recommending.given import Asked, problem_of
from quickstudy.selection.recommending.kept import opened
from quickstudy.selection.recommending.plan import (
    MEASURING,
    Plan,
    by_minutes,
    by_steps,
    costs_of,
    told,
)
from quickstudy.selection.recommending.race import Runner, Say, race
from quickstudy.selection.recommending.recommendation import Recommendation
from quickstudy.selection.recommending.rules import rules_for

SEEDS = 3
"""Trainings of each finalist: the fewest for an interval over other trainings."""

CONCLUDING = 0.05
"""Share of the time for what follows the finals: scores of more shots, intervals."""


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
    run: str | Path | None = None,
    say: Say | None = None,
) -> Recommendation:
    """Race what fits ``data``, and say what to use, what score to expect, why, and what is second.

    ``data``     few-shot classes: a source (:func:`quickstudy.episodes`), a data set, labelled rows
                 or a folder with a folder of pictures for each class; functions: any other source;
                 named tasks (:func:`quickstudy.tasks.domains`); domains: those of
                 :func:`quickstudy.datasets.load_domains` with ``target``, or a source of
                 :func:`quickstudy.tasks.transfer`; an array X, a list of texts, or a DataFrame.
    ``targets``  y of an array or of texts: classes, or numbers. More than 20 different whole
                 numbers with gaps between them, such as prices, are numbers to predict, fewer are
                 classes; y of shape (n, 1) is always numbers, and texts are always classes.
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
    ``run``      a folder for checkpoints and the result. The same call goes on there after a kill.
    ``say``      called with what is done next; None says nothing.

    The candidates (transfer, multi-task and meta-learners, and learners of your rows alone) are
    raced by successive halving on validation classes (or tasks, or rows), see
    :mod:`quickstudy.selection.recommending.race`. Those that are left train anew with ``seeds``
    seeds. The best on validation tasks is taken, or the simplest that is as good; its expected
    score is of test classes on which nothing was decided. A candidate that fails leaves with its
    reason.

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
    _check(asked, tasks, seeds, matters)
    began = time.perf_counter()
    problem = problem_of(data, asked)
    settings = {"minutes": None if steps else budget / 60, "steps": steps, "seeds": seeds,
                "tasks": tasks, "matters": matters, "seed": seed}  # fmt: skip
    if problem.too_few:
        return replace(by_rules(problem), settings=settings)
    names = {"problem": problem.about, "candidates": [each.name for each in problem.candidates]}

    def left(share: float) -> float:
        return share * budget - (time.perf_counter() - began)

    with opened(run, {**settings, **names}) as folder:
        path = folder.path
        plan = folder.plan(
            "plan", lambda: _plan(problem, steps, left(1.0), seeds, tasks, seed, path, say)
        )
        runners = race(problem, plan, path, seed, say)
        plan = folder.plan(
            "finals", lambda: within_time(problem, plan, runners, left(1 - CONCLUDING), tasks)
        )
        finals, failures = run_finals(problem, plan, runners, path, seed, say)
        if not finals:
            raise ValueError(_all_failed(runners, failures))
        found = recommended(problem, plan, runners, finals, failures, matters, seed, say)
        settings |= {"seconds": round(time.perf_counter() - began, 1)}
        found = replace(found, settings=settings)
        folder.keep(found.to_json())
    return found


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
    _check(asked, tasks, seeds, 0.0)
    problem = problem_of(data, asked)
    if problem.too_few:
        return str(by_rules(problem))
    with TemporaryDirectory(prefix="quickstudy-race-") as name:
        plan = _plan(problem, steps, budget, seeds, tasks, seed, Path(name), lambda _: None)
    return told(problem, plan)


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


def _check(asked: Asked, tasks: int, seeds: int, matters: float) -> None:
    check_count("recommend", "ways", asked.ways, 2)
    check_count("recommend", "shots", asked.shots, 1)
    check_count("recommend", "queries", asked.queries, 1)
    check_count("recommend", "labelled", asked.labelled, 1)
    check_count("recommend", "tasks", tasks, 2)
    check_count("recommend", "seeds", seeds, 1)
    check_count("recommend", "seed", asked.seed, 0)
    number = isinstance(matters, int | float) and not isinstance(matters, bool)
    if not number or not 0 <= matters < 1:
        raise ValueError(
            "recommend: matters must be a share, 0 or more and below 1; found "
            f"{shown(matters)}. Half a point is 0.005."
        )


def _plan(
    problem: Problem, steps: int | None, seconds: float, seeds: int, tasks: int, seed: int,
    folder: Path, say: Callable[[str], object],
) -> Plan:  # fmt: skip
    if steps is not None:
        return by_steps(problem, steps, seeds, tasks, {})
    began = time.perf_counter()
    costs, failures = costs_of(problem, seed, folder, say, MEASURING * seconds)
    left = max((1 - MEASURING) * seconds, seconds - (time.perf_counter() - began))
    return by_minutes(problem, left / 60, seeds, tasks, costs, failures)


def by_rules(problem: Problem) -> Recommendation:
    """The answer of the rules, where there is too little to race on."""
    rules = rules_for(problem.rules)
    thing, of, whole = problem.unit.partition(" of ")
    plural = f"{thing}{'es' if thing.endswith('s') else 's'}{of}{whole}"
    few = count(problem.raced_on, problem.unit, plural)
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
