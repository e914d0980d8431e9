"""Successive halving: many candidates train a little, and only the better ones go on.

Jamieson and Talwalkar (2016), Non-stochastic Best Arm Identification and Hyperparameter
Optimization. Differs from it in rungs of equal *time* for each candidate instead of equal steps,
since what is asked is the best learner for the minutes there are; in candidates that train nothing
and stay in the race to its end, as they cost nothing more; and in two trained ones that are left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quickstudy.base.errors import first_line
from quickstudy.evaluation.result import Result
from quickstudy.selection.recommending.candidates import Candidate, Problem
from quickstudy.selection.recommending.plan import Plan
from quickstudy.selection.recommending.racer import Racer, one_result

Say = Callable[[str], object]
"""Told what is done next."""


@dataclass(frozen=True)
class Lap:
    """A candidate's score after so many steps, on the validation tasks that all are scored on.

    ``training``, ``scoring``  seconds of all its steps, and of the lap's tasks.
    """

    steps: int
    result: Result
    training: float = field(default=math.nan, compare=False)
    scoring: float = field(default=math.nan, compare=False)


@dataclass(frozen=True)
class Runner:
    """What became of one candidate.

    ``laps``     its score at the end of each rung that it ran.
    ``failure``  why it left the race, in one line; "" where nothing failed.
    """

    name: str
    laps: tuple[Lap, ...]
    failure: str = ""

    @property
    def goodness(self) -> float:
        """The last score, greater where better; minus infinity where there is none."""
        return -math.inf if self.failure or not self.laps else goodness(self.laps[-1].result)


def goodness(result: Result) -> float:
    """The mean, with the sign such that greater is better; minus infinity where undefined."""
    mean = result.mean if result.higher_is_better else -result.mean
    return -math.inf if math.isnan(mean) else mean


def race(
    problem: Problem, plan: Plan, folder: Path, seed: int = 0, say: Say = lambda _: None
) -> tuple[Runner, ...]:
    """All candidates of ``problem``, in their order, with their scores; the same for a seed.

    In each rung of ``plan`` those that are left train on to its steps, and all are scored on the
    same validation tasks; then the worse ones leave. Candidates without training are scored once.
    Equal scores keep the simpler one, which comes first. A candidate that raises an error leaves.
    """
    by_name = {each.name: each for each in problem.candidates}
    runners = {
        name: Runner(name, (), plan.failures.get(name, "")) for name in by_name
    }  # fmt: skip
    ready: dict[str, Racer] = {}
    for name, each in by_name.items():
        if not each.steps and not runners[name].failure:
            say(f"scoring {each.title}")
            runners[name] = _lap(runners[name], each, 0, plan, folder, seed, ready)
    left = [name for name, each in by_name.items() if each.steps and not runners[name].failure]
    for number, (steps, keep) in enumerate(zip(plan.rungs, plan.keep, strict=True), 1):
        for name in left:
            say(f"rung {number} of {len(plan.rungs)}: {by_name[name].title}, {steps[name]} steps")
            runners[name] = _lap(
                runners[name], by_name[name], steps[name], plan, folder, seed, ready
            )
        left = [name for name in left if not runners[name].failure]
        best = sorted(left, key=lambda name: -runners[name].goodness)[
            :keep
        ]  # stable: simpler first
        for name in set(left) - set(best):
            del ready[name]
        left = [name for name in left if name in best]
    return tuple(runners.values())


def _lap(
    runner: Runner,
    candidate: Candidate,
    steps: int,
    plan: Plan,
    folder: Path,
    seed: int,
    ready: dict[str, Racer],
) -> Runner:
    """The runner after training on to ``steps``, scored; or why that failed."""
    try:
        if candidate.name not in ready:
            ready[candidate.name] = Racer(candidate, seed, folder / f"race-{candidate.name}")
        racer = ready[candidate.name]
        racer.train_to(steps)
        trained = time.perf_counter()
        result = one_result(racer.scored(plan.tasks, seed))
        if math.isnan(result.mean):
            raise ValueError(f"its {result.score} is undefined on the validation tasks")
    except Exception as error:  # one candidate never stops the race
        return Runner(runner.name, runner.laps, first_line(error))
    lap = Lap(steps, result, racer.seconds, time.perf_counter() - trained)
    return Runner(runner.name, (*runner.laps, lap))


def still_in(problem: Problem, plan: Plan, runners: Mapping[str, Runner]) -> list[str]:
    """The trained candidates that ran every rung without a failure, best first."""
    trained = [each.name for each in problem.candidates if each.steps]
    through = [n for n in trained if len(runners[n].laps) == len(plan.rungs)]
    return sorted((n for n in through if not runners[n].failure),
                  key=lambda name: -runners[name].goodness)[: plan.keep[-1]]  # fmt: skip
