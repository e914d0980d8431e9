"""How the minutes are spent: rungs of a race, and trainings of those that are left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quickstudy.base.errors import first_line
from quickstudy.selection.recommending.candidates import Candidate, Problem
from quickstudy.selection.recommending.racer import Cost, measured

FINALISTS = 2
"""Trained candidates that are left when the race ends."""

MOST = 10
"""A candidate trains for so many times the steps of its usual training at most."""

MEASURING = 0.5
"""Share of the time after which no further candidate is measured."""

IN_RACE, IN_FINALS = 0.35, 0.4
"""Shares of the time for training. Scoring takes most of the rest."""

TASKS = (5, 200)
"""The fewest and the most validation tasks that a rung is decided on, where time decides."""

DEAR = 0.05
"""Share of the time above which scoring a candidate once is too much, and it is not raced."""

NOT_DEAR = 4
"""Times the cost of the cheapest one, up to which a candidate is raced all the same."""

IN_SCORES = 0.1
"""Share of the time for scoring the candidates of the first rung, and as much for the finals."""


@dataclass(frozen=True)
class Plan:
    """What is done, fixed before it begins: from here on, all follows from the seed.

    ``rungs``     for each rung, the steps that each candidate has taken at its end.
    ``keep``      for each rung, how many of the trained candidates go on.
    ``tasks``     validation tasks that each rung is scored on; ``test_tasks``, of the finals.
    ``final``     the steps of each trained candidate in the finals, from new weights each time.
    ``seeds``     how many trainings of each finalist.
    ``seconds``   about how long it takes on this machine.
    ``costs``     as measured; ``failures``, why a candidate cannot be raced.
    """

    rungs: tuple[Mapping[str, int], ...]
    keep: tuple[int, ...]
    tasks: int
    final: Mapping[str, int]
    seeds: int
    test_tasks: int
    seconds: float = math.nan
    costs: Mapping[str, Cost] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


def halvings(trained: int) -> tuple[int, ...]:
    """How many of ``trained`` candidates go on after each rung: half of them, at least 2."""
    found = []
    while trained > FINALISTS:
        trained = max(FINALISTS, -(-trained // 2))
        found.append(trained)
    return tuple(found) or (trained,)


def costs_of(
    problem: Problem, seed: int, folder: Path, on: Callable[[str], object],
    seconds: float = math.inf,
) -> tuple[dict[str, Cost], dict[str, str]]:  # fmt: skip
    """What each candidate costs, and why some cannot be raced; nothing of it is kept.

    ``seconds``  after which no further one is measured, and so none raced.
    """
    costs: dict[str, Cost] = {}
    failures: dict[str, str] = {}
    began = time.perf_counter()
    for each in problem.candidates:
        if costs and time.perf_counter() - began > seconds:
            failures[each.name] = "no time was left to measure what it costs; give more minutes"
            continue
        on(f"measuring {each.title}")
        try:
            costs[each.name] = measured(each, seed, folder / f"measured-{each.name}")
        except Exception as error:  # one candidate never stops the race
            failures[each.name] = first_line(error)
    return costs, failures


def by_minutes(
    problem: Problem,
    minutes: float,
    seeds: int,
    tasks: int,
    costs: Mapping[str, Cost],
    failures: Mapping[str, str],
) -> Plan:
    """A plan that takes about ``minutes`` by the ``costs`` that were measured."""
    seconds = 60 * minutes
    cheapest = min((cost.task for cost in costs.values()), default=0.0)
    dear = {
        name: f"scoring {TASKS[0]} tasks takes about {TASKS[0] * cost.task:.0f} s, too much of "
        f"{seconds:.0f} s; give more minutes"
        for name, cost in costs.items()
        if TASKS[0] * cost.task > DEAR * seconds and cost.task > NOT_DEAR * cheapest
    }  # fmt: skip
    failures = {**failures, **dear}
    there = [each for each in problem.candidates if each.name in costs and each.name not in dear]
    trained = [each for each in there if each.steps]
    keep = halvings(len(trained))
    per_task = sum(costs[each.name].task for each in there) or 1e-9
    scored = _within(IN_SCORES * seconds / per_task / 2, *TASKS, problem.tasks)
    rungs: list[dict[str, int]] = []
    left = len(trained)
    for place, goes_on in enumerate(keep):
        each_has = IN_RACE * seconds / len(keep) / max(1, left)
        before = rungs[-1] if place else dict.fromkeys((t.name for t in trained), 0)
        rungs.append({
            t.name: _steps(t, before[t.name], each_has - costs[t.name].start / 2, costs[t.name])
            for t in trained
        })  # fmt: skip
        left = goes_on
    each_has = IN_FINALS * seconds / (seeds * min(FINALISTS, max(1, len(trained))))
    final = {
        t.name: _steps(t, 0, each_has - costs[t.name].start, costs[t.name]) for t in trained
    }  # fmt: skip
    dearest = sorted((costs[each.name].task for each in there), reverse=True)[: FINALISTS + 1]
    tested = IN_SCORES * seconds / (seeds * sum(dearest) or 1e-9)
    test_tasks = _within(tested, min(20, tasks), tasks, problem.tasks)
    return Plan(
        tuple(rungs), keep, scored, final, seeds, test_tasks, seconds, dict(costs), dict(failures)
    )


def by_steps(
    problem: Problem,
    steps: int,
    seeds: int,
    tasks: int,
    failures: Mapping[str, str],
) -> Plan:
    """A plan of so many ``steps`` for each of the finalists, the same on every machine."""
    trained = [c for c in problem.candidates if c.steps and c.name not in failures]
    keep = halvings(len(trained))
    rungs = tuple(
        {t.name: max(1, steps >> (len(keep) - 1 - place)) for t in trained}
        for place in range(len(keep))
    )
    scored = _within(TASKS[1], 2, min(tasks, TASKS[1]), problem.tasks)
    return Plan(
        rungs,
        keep,
        scored,
        {t.name: steps for t in trained},
        seeds,
        _within(tasks, 2, tasks, problem.tasks),
        failures=failures,
    )


def _steps(candidate: Candidate, before: int, seconds: float, cost: Cost) -> int:
    """The steps after ``seconds`` more, at least one and at most those that are worth taking."""
    more = max(1, int(seconds / max(cost.step, 1e-6)))
    return min(before + more, max(before, MOST * candidate.steps))


def _within(value: float, low: int, high: int, most: int | None) -> int:
    found = max(low, min(high, int(value)))
    return found if most is None else min(found, most)


def _shares(counts: Sequence[int]) -> str:
    """Numbers of candidates, such as "6 → 3 → 2"."""
    return " → ".join(map(str, counts))


def told(problem: Problem, plan: Plan) -> str:
    """The plan as text: candidates, rungs, tasks, time."""
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
        f"rungs     {_shares([there, *plan.keep])} trained, {plan.tasks} validation tasks",
        f"finals    {plan.seeds} trainings of each that is left, {plan.test_tasks} test tasks",
    ]
    if math.isfinite(plan.seconds):
        lines.append(f"time      about {plan.seconds / 60:.1f} minutes on this machine")
    return "\n".join(lines)
