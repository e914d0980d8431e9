"""Successive halving: who goes on, on which tasks, and that a failure is a reason."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

import quickstudy as qs
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.selection.recommending import finals as finals_module
from quickstudy.selection.recommending import race as race_module
from quickstudy.selection.recommending.candidates import Candidate, Problem, Sources
from quickstudy.selection.recommending.finals import (
    FEWEST_TESTED,
    Finalist,
    finalists,
    run_finals,
    taken,
    within_time,
)
from quickstudy.selection.recommending.plan import (
    MOST,
    TASKS,
    Plan,
    by_minutes,
    by_steps,
    costs_of,
    halvings,
)
from quickstudy.selection.recommending.race import Lap, Runner, race
from quickstudy.selection.recommending.racer import (
    FIRST_TASKS,
    TIMED_TASKS,
    Cost,
    Racer,
    measured,
    one_result,
)
from quickstudy.tasks.numbering import Stream

TASKS_OF = qs.Sinusoids(5, 5)


def candidate(name: str, steps: int = 0, family: str = "meta-learning", **more) -> Candidate:
    sources = Sources(TASKS_OF if steps else None, TASKS_OF, TASKS_OF)
    make = more.pop("make", lambda: qs.LinearProbe(qs.backbones.MLP(1, (8,))))
    return Candidate(name, name, family, f"use {name}", make, sources, steps, **more)


def problem(*candidates: Candidate) -> Problem:
    return Problem("functions", "made up", "task", 100, candidates, ("functions",))


def result(mean: float, unit: str = "%", higher: bool = True):
    values = torch.full((4,), mean, dtype=torch.float64)
    return race_module.Result(
        "",
        "score",
        unit,
        higher,
        False,
        True,
        tuple({"mean": v} for v in values),
        values,
        mean,
        0.0,
    )


class Scripted:
    """In place of a racer: scores that are known beforehand, by name and steps."""

    scores: dict[str, dict[int, float]] = {}  # noqa: RUF012
    trained: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, candidate, seed, folder, schedule=None):
        self.name, self.steps, self.seconds = candidate.name, 0, 0.0

    def train_to(self, steps):
        self.steps = steps
        self.trained.append((self.name, steps))

    def scored(self, tasks, seed, *, test=False):
        mean = self.scores[self.name][self.steps]
        if mean == -math.inf:
            raise ArithmeticError("the loss is NaN\nand more")
        return result(mean)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(race_module, "Racer", Scripted)
    monkeypatch.setattr(race_module, "one_result", lambda found: found)
    monkeypatch.setattr(Scripted, "trained", [])
    return monkeypatch


def test_the_better_half_goes_on(scripted, tmp_path):
    """Against a plain computation, on 200 tables of random scores with ties and failures."""
    chance = random.Random(0)
    plan = Plan(tuple(dict.fromkeys("abcdefg", s) for s in (1, 2, 4)), (4, 2, 2), 5, {}, 1, 5)
    for _ in range(200):
        values = [0.1, 0.2, 0.3, 0.4, -math.inf]
        table = {n: {s: chance.choice(values) for s in (1, 2, 4)} for n in "abcdefg"}
        scripted.setattr(Scripted, "scores", table)
        left, laps, failed = list("abcdefg"), dict.fromkeys("abcdefg", 0), set()
        for steps, keep in ((1, 4), (2, 2), (4, 2)):
            for name in left:
                bad = table[name][steps] == -math.inf
                failed |= {name} if bad else set()
                laps[name] += not bad
            left = [n for n in left if n not in failed]
            left = sorted(left, key=lambda n: (-table[n][steps], "abcdefg".index(n)))[:keep]
            left.sort()
        runners = race(problem(*(candidate(n, 10) for n in "abcdefg")), plan, tmp_path)
        assert {r.name: len(r.laps) for r in runners} == laps
        assert {r.name for r in runners if r.failure} == failed
        assert {r.failure for r in runners} <= {"", "the loss is NaN"}


def test_what_trains_nothing_is_scored_once_and_reaches_the_finals(scripted, tmp_path):
    scores = {"alone": {0: 0.5}, "frozen": {0: 0.9}, "poor": {0: 0.1}, "worse": {0: 0.2}}
    scripted.setattr(Scripted, "scores", scores | {"a": {1: 0.3}, "b": {1: 0.2}})
    raced = problem(
        candidate("alone", family="target only"), candidate("poor"), candidate("worse"),
        candidate("frozen", family="pretrained"), candidate("a", 5), candidate("b", 5),
    )  # fmt: skip
    plan = Plan(({"a": 1, "b": 1},), (1,), 5, {"a": 1, "b": 1}, 1, 5)
    runners = race(raced, plan, tmp_path)
    assert [len(r.laps) for r in runners] == [1] * 6
    assert [c.name for c in finalists(raced, plan, runners)] == ["alone", "frozen", "a"]


def test_the_best_of_the_rows_alone_is_always_in_the_finals(scripted, tmp_path):
    scores = {"alone": {0: 0.1}, "other": {0: 0.05}, "x": {0: 0.8}, "y": {0: 0.9}, "z": {0: 0.7}}
    scripted.setattr(Scripted, "scores", scores)
    alone = [candidate(n, family="target only") for n in ("alone", "other")]
    raced = problem(*alone, candidate("x"), candidate("y"), candidate("z"))
    plan = Plan((), (0,), 5, {}, 1, 5)
    runners = race(raced, Plan(({},), (0,), 5, {}, 1, 5), tmp_path)
    assert [c.name for c in finalists(raced, plan, runners)] == ["alone", "x", "y"]


def test_training_goes_on_where_it_stopped(tmp_path):
    one = Racer(candidate("a", 10), 3, tmp_path / "one")
    for steps in (2, 3, 6):
        one.train_to(steps)
    whole = Racer(candidate("a", 10), 3, tmp_path / "whole")
    whole.train_to(6)
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, one.learner.state_dict()[name])
    assert one.scored(4, 0).fingerprint == whole.scored(4, 0).fingerprint


def test_a_race_is_the_same_for_a_seed_and_all_are_scored_on_the_same_tasks(tmp_path):
    raced = problem(
        candidate("ridge", make=lambda: qs.LinearProbe(qs.backbones.Features(1))),
        candidate("learnt", 10),
    )
    plan = by_steps(raced, 3, 1, 6, {})
    first, again = (race(raced, plan, tmp_path / n, 5) for n in "ab")
    assert [r.laps[-1].result.mean for r in first] == [r.laps[-1].result.mean for r in again]
    ridge = evaluate(
        raced.candidates[0].make(), TASKS_OF, 6, seed=5, stream=Stream.VALIDATION, baselines=False
    )
    assert first[0].laps[0].result.mean == ridge.mean
    assert race(raced, plan, tmp_path / "c", 6)[1].laps[0].result.mean != ridge.mean


def test_a_candidate_that_cannot_be_made_is_a_reason(tmp_path):
    def broken():
        raise RuntimeError("no such network")

    raced = problem(candidate("ridge"), candidate("broken", 5, make=broken))
    runners = race(raced, by_steps(raced, 1, 1, 2, {}), tmp_path)
    assert runners[1].failure == "no such network"
    finals, _ = run_finals(raced, by_steps(raced, 1, 1, 2, {}), runners, tmp_path, 0)
    assert [each.candidate.name for each in finals] == ["ridge"]


def test_ctrl_c_ends_the_race(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(race_module.Racer, "train_to", interrupted)
    raced = problem(candidate("a", 5))
    with pytest.raises(KeyboardInterrupt):
        race(raced, by_steps(raced, 1, 1, 2, {}), tmp_path)


@pytest.mark.parametrize("trained", range(12))
def test_halvings(trained):
    found = halvings(trained)
    assert found[-1] <= 2
    before = (trained, *found)
    assert all(
        b >= min(2, a) and b <= max(2, -(-a // 2)) for a, b in zip(before, found, strict=False)
    )


def test_a_plan_of_minutes_takes_about_that_long():
    """The sum of what it plans, by the measured costs, for small and large costs."""
    names = "abcdef"
    raced = problem(candidate("alone", family="target only"), *(candidate(n, 800) for n in names))
    for minutes, step, task in ((1, 0.01, 0.001), (10, 0.1, 0.02), (5, 1.0, 0.05)):
        costs = {n: Cost(0.1, step, task) for n in ("alone", *names)}
        plan = by_minutes(raced, minutes, 3, 600, costs, {})
        left, before, seconds = 6, 0, len(costs) * plan.tasks * task
        for rung, keep in zip(plan.rungs, plan.keep, strict=True):
            assert all(rung[n] <= MOST * 800 for n in names)
            seconds += left * ((rung["a"] - before) * step + plan.tasks * task)
            left, before = keep, rung["a"]
        seconds += 3 * 2 * (plan.final["a"] * step + (plan.tasks + plan.test_tasks) * task)
        assert TASKS[0] <= plan.tasks <= TASKS[1]
        assert 0.3 * 60 * minutes < seconds < 1.1 * 60 * minutes


def test_what_first_tasks_pay_once_is_no_cost_of_each(monkeypatch, tmp_path):
    """Else what is measured first, such as nearest means, may look too dear to be raced."""
    scored, real = [], Racer.scored
    monkeypatch.setattr(
        Racer, "scored", lambda self, n, seed: (scored.append(n), real(self, n, seed))[1]
    )
    assert measured(candidate("alone"), 0, tmp_path).task > 0
    assert scored == [FIRST_TASKS, TIMED_TASKS]


def test_measuring_ends_with_its_time(tmp_path):
    """On a slow machine, what is measured last would else take the time of the whole race."""
    raced = problem(*map(candidate, "abc"))
    costs, failures = costs_of(raced, 0, tmp_path, lambda _: None, seconds=0.0)
    assert list(costs) == ["a"]
    assert list(failures) == ["b", "c"]
    assert all("give more minutes" in why for why in failures.values())


def test_what_is_too_dear_is_not_raced():
    raced = problem(candidate("alone", family="target only"), candidate("dear"))
    costs = {"alone": Cost(0, 0, 0.001), "dear": Cost(0, 0, 1.0)}
    plan = by_minutes(raced, 1, 3, 600, costs, {})
    assert "give more minutes" in plan.failures["dear"]
    assert "alone" not in plan.failures
    slow = {name: Cost(0, 0, 10 * cost) for name, cost in (("alone", 1.0), ("dear", 2.0))}
    assert not by_minutes(raced, 1, 3, 600, slow, {}).failures  # something must be raced


@pytest.mark.parametrize(
    ("unit", "higher", "means", "expected"),
    [
        ("%", True, {"a": 0.900, "b": 0.904}, "a"),
        ("%", True, {"a": 0.900, "b": 0.906}, "b"),
        ("", False, {"a": 1.009, "b": 1.0}, "a"),
        ("", False, {"a": 1.02, "b": 1.0}, "b"),
        ("", False, {"a": 0.5, "b": 1.0}, "a"),
    ],
)
def test_the_simplest_within_what_matters_is_taken(unit, higher, means, expected):
    learner = qs.LinearProbe(qs.backbones.Features(1))
    found = [
        Finalist(candidate(n), 0, (result(m, unit, higher),), (), learner) for n, m in means.items()
    ]
    assert taken(found, 0.005).candidate.name == expected


def test_finals_take_new_tasks_and_as_many_trainings_as_seeds(tmp_path, monkeypatch):
    seen = []
    real = finals_module.Racer.scored

    def recorded(self, tasks, seed, *, test=False):
        seen.append((self.candidate.name, self.seed, seed, test))
        return real(self, tasks, seed, test=test)

    monkeypatch.setattr(finals_module.Racer, "scored", recorded)
    raced = problem(
        candidate("ridge", make=lambda: qs.LinearProbe(qs.backbones.Features(1))),
        candidate("learnt", 10),
    )
    plan = by_steps(raced, 2, 3, 4, {})
    runners = race(raced, plan, tmp_path, 7)
    seen.clear()
    found, failures = run_finals(raced, plan, runners, tmp_path, 7)
    assert not failures
    assert [len(each.validation) for each in found] == [3, 3]
    assert len({r.mean for r in found[1].test}) == 3
    assert seen.count(("ridge", 7, 8, False)) == 1  # no seed changes it
    assert [s for s in seen if s[0] == "learnt" and s[3]] == [
        ("learnt", seed, 7, True) for seed in (7, 8, 9)
    ]


def test_finals_of_few_classes_train_on_each_division_in_turn(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        finals_module.Racer,
        "train_to",
        lambda self, steps: seen.append((self.candidate.advice, self.seed)),
    )
    ridge = candidate("ridge", make=lambda: qs.LinearProbe(qs.backbones.Features(1)))
    raced = replace(
        problem(ridge, candidate("learnt", 10)),
        divisions=tuple(
            (ridge, replace(candidate("learnt", 10), advice=f"division {k}")) for k in (1, 2)
        ),
    )
    plan = by_steps(raced, 2, 4, 4, {})
    runners = race(raced, plan, tmp_path, 0)
    seen.clear()
    found, failures = run_finals(raced, plan, runners, tmp_path, 0)
    assert not failures
    assert seen[4:] == [("use learnt", 0), ("division 1", 1), ("division 2", 2), ("use learnt", 3)]
    assert [len(each.test) for each in found] == [4, 4]


def timed(name: str, steps: int, training: float, scoring: float) -> Runner:
    return Runner(name, (Lap(steps, result(0.5), training, scoring),))


@pytest.mark.parametrize("seconds", [1, 10, 60, 600])
def test_finals_take_the_time_that_is_left(seconds):
    """By how long the race took, not by what was measured before; else the least that is done."""
    raced = problem(candidate("alone", family="target only"), candidate("a", 800))
    costs = {name: Cost(0.0, 0.001, 0.0001) for name in ("alone", "a")}  # much too fast
    plan = by_minutes(raced, 1, 3, 600, costs, {})
    runners = [timed("alone", 0, 0.0, 0.4), timed("a", 50, 5.0, 0.6)]
    plan = replace(plan, tasks=20)
    found = within_time(raced, plan, runners, seconds, 600)
    step, task = 5.0 / 50, (0.4 + 0.6) / 20
    spent = found.seeds * (found.final["a"] * step + (found.tasks + found.test_tasks) * task)
    least = 50 * step + (20 + FEWEST_TESTED) * task
    assert spent <= max(seconds, least) + found.seeds * FEWEST_TESTED * task
    assert found.final["a"] >= 50  # no fewer than in the race
    assert 1 <= found.seeds <= 3
    assert FEWEST_TESTED <= found.test_tasks <= 600
    if seconds == 600:
        assert spent > 0.6 * seconds
        assert found.seeds == 3


def test_plans_of_steps_stay_as_they_are():
    raced = problem(candidate("a", 800))
    plan = by_steps(raced, 10, 3, 600, {})
    assert within_time(raced, plan, [timed("a", 10, 1.0, 1.0)], 1.0, 600) is plan


def test_the_mean_over_named_tasks_counts_each_once():
    x = torch.linspace(-1, 1, 12)[:, None]
    tasks = qs.tasks.domains({
        "a": (x, x + 1, qs.regression()), "b": (x[:6], 3 * x[:6], qs.regression()),
    })  # fmt: skip
    found = qs.evaluate(
        qs.LinearProbe(qs.backbones.Features(1)), tasks.tested_on(tasks), baselines=False
    )
    one = one_result(found)
    by_hand = [found.row("a").mean, found.row("b").mean]
    assert one.mean == pytest.approx(sum(by_hand) / 2)
    assert one.values.tolist() == pytest.approx(by_hand)
