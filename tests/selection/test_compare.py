"""Learners are trained and tested on the same tasks; failures, protocols and bad input."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

import quickstudy as qs
from made_up import clouds
from quickstudy.core import Task
from quickstudy.selection.comparing.budget import Minutes, Pace, seconds_per_step
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

TRAIN, TEST = clouds(), clouds(queries=5)


def network() -> torch.nn.Module:
    return qs.backbones.MLP(4, (8,))


def prototypical() -> qs.Learner:
    return qs.Prototypical(network())


class Fails(qs.Prototypical):
    """Its loss is NaN as soon as a step has changed its weights."""

    def __init__(self) -> None:
        super().__init__(network())
        self.start = next(self.parameters()).detach().clone()

    @staticmethod
    def objective(learner, task: Task):
        moved = (next(learner.parameters()) - learner.start).abs().sum().detach()
        loss = sum(p.square().sum() for p in learner.parameters())
        return loss / (moved == 0)


class GivesReals(qs.Prototypical):
    answers = (qs.answers.Reals,)


class SeesQueries(qs.Learner):
    """Centres queries on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototypical()

    @property
    def transductive(self) -> bool:
        return True

    exceptions: ClassVar = {"queries_are_independent": "it centres them"}

    def adapt(self, support, spec):
        return self.inner.adapt(support, spec)

    def predict(self, state, inputs, spec):
        return self.inner.predict(state, inputs - inputs.mean(0), spec)


def compared(learners, **changes):
    given = {"budget": 3, "seeds": 1, "tasks": 20, "progress": False, **changes}
    return qs.compare(learners, TRAIN, TEST, **given)


@pytest.fixture(scope="module")
def found():
    learners = {"one": prototypical, "twin": prototypical, "ridge": lambda: qs.R2D2(network())}
    return compared(learners, seeds=3, over_shots={2: clouds(shots=2)}).main


def test_two_learners_of_one_kind_get_the_same_weights_and_tasks(found):
    one, twin = found.entry("one"), found.entry("twin")
    for seed in range(3):
        assert one.results[seed].values.equal(twin.results[seed].values)
    pair = found.pair("one", "twin")
    assert pair.difference == 0
    assert pair.ties == 1
    assert pair.verdict == "not known"  # 20 ties alone prove nothing


def test_every_seed_is_a_training_of_its_own(found):
    ridge = found.entry("ridge").results
    assert not ridge[0].values.equal(ridge[1].values)


def test_a_training_is_that_of_fit_and_a_test_that_of_evaluate(found):
    torch.manual_seed(2)
    learner = prototypical()
    qs.fit(learner, TRAIN, 3, 4, optimiser=adam(1e-3), schedule=cosine, seed=2, progress=False)
    alone = qs.evaluate(learner, TEST, 20)
    entry = found.entry("one")
    assert entry.evaluations[2].fingerprint == alone.fingerprint
    assert entry.results[2].values.allclose(alone.scores, rtol=1e-7)
    assert entry.parameters == sum(p.numel() for p in learner.parameters())
    assert entry.bytes == 4 * entry.parameters
    baselines = {each.name: each for each in alone.main.baselines}
    for name, own in (("chance", "chance"), ("nearest mean of the inputs", "nearest_mean")):
        assert found.entry(own).results[0].values.allclose(baselines[name].values, rtol=1e-7)


def test_the_baselines_are_always_there(found):
    assert {entry.name for entry in found.baselines} == {
        "chance", "nearest_mean", "target_only", "untrained"
    }  # fmt: skip
    chance = found.entry("chance")
    assert chance.results[0].values.allclose(torch.full((20,), 1 / 3, dtype=torch.float64))
    probe = qs.LinearProbe(qs.backbones.Features(4))
    alone = qs.evaluate(probe, TEST, 20, baselines=False)
    assert found.entry("target_only").results[0].values.allclose(alone.scores, rtol=1e-7)
    assert len(found.entry("target_only").evaluations) == 1
    assert len(found.entry("untrained").evaluations) == 3


def test_over_shots_are_results_of_other_tasks(found):
    shots = found.entry("one").over_shots
    assert list(shots) == [2]
    assert shots[2].tasks == 20
    assert found.entry("chance").over_shots == {}


def test_a_failure_is_a_row_ranked_last():
    table = compared({"good": prototypical, "bad": Fails, "ridge": lambda: qs.R2D2(network())},
                     budget=3).main  # fmt: skip
    assert [entry.name for entry in table.ranking][-1] == "bad"
    assert "became inf at step 1" in table.entry("bad").failure
    assert table.mean_ranks["bad"] == len(table.entries)
    assert max(rank for name, rank in table.mean_ranks.items() if name != "bad") < len(
        table.entries
    )
    assert "failed, and ranked last: bad" in str(table)
    assert all("bad" not in (pair.first, pair.second) for pair in table.pairs)


def test_transductive_learners_stand_in_a_table_of_their_own():
    tables = compared(
        {"one": prototypical, "sees": SeesQueries, "ridge": lambda: qs.R2D2(network())}
    )
    assert tables.inductive is not None
    assert tables.transductive is not None
    assert [e.name for e in tables.inductive.learners] == ["one", "ridge"]
    assert [e.name for e in tables.transductive.learners] == ["sees"]
    assert "chance" in {e.name for e in tables.transductive.baselines}


def test_tasks_are_added_until_every_pair_is_decided():
    class Worse(qs.Prototypical):
        def predict(self, state, inputs, spec):
            return -super().predict(state, inputs, spec)

    learners = {"good": lambda: qs.Prototypical(qs.backbones.Features(4)),
                "worse": lambda: Worse(qs.backbones.Features(4))}  # fmt: skip
    wide = compared(learners, tasks=400, matters=0.2).main
    assert wide.tasks < 400
    assert all(pair.here != "not known" for pair in wide.pairs)
    narrow = compared(learners, tasks=120, matters=1e-9).main
    assert narrow.tasks == 120
    assert narrow.pair("good", "worse").verdict == "better"


def test_learners_without_parameters_are_not_trained():
    features = qs.backbones.Features(4)
    found = compared([qs.LinearProbe(features), qs.SimpleShot(features)]).main
    assert [entry.steps for entry in found.learners] == [0, 0]
    assert [entry.name for entry in found.learners] == ["linear_probe", "simple_shot"]
    assert found.left_out == {"untrained": "no learner has a backbone"}


def test_learners_given_as_they_are_are_made_again_for_each_seed():
    given = [prototypical(), qs.R2D2(network())]
    before = [p.clone() for p in given[0].parameters()]
    found = compared(given, seeds=2).main
    named = compared(
        {"prototypical": prototypical, "r2d2": lambda: qs.R2D2(network())}, seeds=2
    ).main
    for name in ("prototypical", "r2d2"):
        for a, b in zip(found.entry(name).results, named.entry(name).results, strict=True):
            assert a.values.equal(b.values)
    assert all(p.equal(q) for p, q in zip(before, given[0].parameters(), strict=True))


WRONG = {
    "at least 2 learners; found 1": ({"one": prototypical}, {}),
    "found 'prototypical' twice": ([prototypical(), prototypical()], {}),
    "budget must be": ({"a": prototypical, "b": prototypical}, {"budget": 0}),
    "seeds must be": ({"a": prototypical, "b": prototypical}, {"seeds": 0}),
    "tasks must be": ({"a": prototypical, "b": prototypical}, {"tasks": 1}),
    "matters must be a number": ({"a": prototypical, "b": prototypical}, {"matters": math.nan}),
    "b must make a Learner; found MLP": ({"a": prototypical, "b": network}, {}),
    "learners must be a mapping": (prototypical(), {}),
    "a list must hold learners": ([prototypical, prototypical], {}),
    "wide does not fit the tasks": (
        {"a": prototypical, "wide": lambda: qs.MAML(qs.backbones.MLP(4, (8,), outputs=2))}, {},
    ),
    "real does not fit the tasks": (
        {"a": prototypical, "real": lambda: GivesReals(network())}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_refused_before_any_training(message, monkeypatch):
    learners, changes = WRONG[message]
    monkeypatch.setattr(
        "quickstudy.selection.comparing.fitting.fit", lambda *_, **__: pytest.fail("trained")
    )
    with pytest.raises(ValueError, match=message):
        compared(learners, **changes)


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf, "2", True])
def test_minutes_are_a_positive_number(minutes):
    with pytest.raises(ValueError, match="minutes must be"):
        Minutes(minutes)


def test_steps_that_fit_in_minutes_have_two_digits():
    assert Minutes(1).pace(0.01, None).steps == 6000
    assert Minutes(1).pace(0.0123, None).steps == 4800
    assert Minutes(1).pace(7.0, None).steps == 8
    assert Minutes(0.01).pace(100.0, None).steps == 1


def test_validation_is_part_of_the_minutes_or_is_left_out():
    """4 validations of 100 tasks: 4 s of 60 at 10 ms a task, and 400 s at 1 s."""
    assert Minutes(1).pace(0.1, 0.01) == Pace(560, True)
    assert Minutes(1).pace(0.1, 1.0) == Pace(600, False)
    assert Minutes(1).pace(0.1, 0.05) == Pace(400, True)  # just a third
    assert Minutes(1).pace(0.1, 0.051) == Pace(600, False)


def test_the_pilot_ends_and_measures_a_step(monkeypatch):
    """The clock is counted, since a test must not depend on the machine: a step takes 0.5 s."""
    clock = iter(0.5 * i for i in range(1000))
    monkeypatch.setattr(
        "quickstudy.selection.comparing.budget.time.process_time", lambda: next(clock)
    )

    def train(on_step):
        for step in range(1000):
            on_step(step)

    assert seconds_per_step(train) == 0.5
    assert next(clock) < 10


class Forgets(qs.Prototypical):
    """Depends on the other queries, by its name alone."""

    @property
    def transductive(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["chance", "nearest_mean", "target_only", "untrained", "probe"])
def test_no_learner_takes_the_place_of_a_baseline(name):
    with pytest.raises(ValueError, match=f"name of one; found '{name}'"):
        compared({"one": prototypical, name: prototypical})


def test_weights_that_are_not_made_anew_are_refused():
    one, backbone = prototypical(), network()
    with pytest.raises(ValueError, match="two calls, for 'same' and 'same'"):
        compared({"new": prototypical, "same": lambda: one})
    given = iter([network(), network(), backbone, network(), backbone])
    with pytest.raises(ValueError, match="every training needs new weights"):
        compared({
            "first": lambda: qs.Prototypical(next(given, backbone)),
            "second": lambda: qs.R2D2(next(given, backbone)),
        })  # fmt: skip
    with pytest.raises(ValueError, match="functions that make learners"):
        compared({"new": prototypical, "made": one})


def test_names_that_are_equal_as_texts_are_refused():
    with pytest.raises(ValueError, match="found '1' twice"):
        compared({1: prototypical, "1": prototypical})


@pytest.mark.parametrize("matters", [math.inf, math.nan, -0.1, "0.5", True])
def test_what_matters_is_refused_before_training(matters):
    with pytest.raises(ValueError, match="matters must be a number of 0 or more"):
        compared({"one": Fails, "two": Fails}, matters=matters)


def test_a_folder_of_other_tasks_or_learners_is_refused(tmp_path):
    """A finished comparison was given back for whatever else had its names and numbers."""
    learners = {"one": prototypical, "ridge": lambda: qs.R2D2(network())}
    compared(learners, run=tmp_path, budget=1)
    with pytest.raises(ValueError, match="with first_test_task"):
        qs.compare(learners, TRAIN, clouds(queries=6), budget=1, seeds=1, tasks=20, run=tmp_path)
    with pytest.raises(ValueError, match="with first_train_task"):
        qs.compare(learners, clouds(shots=2), TEST, budget=1, seeds=1, tasks=20, run=tmp_path)
    learners["ridge"] = lambda: qs.R2D2(qs.backbones.MLP(4, (9,)))
    with pytest.raises(ValueError, match="with made_of"):
        compared(learners, run=tmp_path, budget=1)


def test_a_baseline_that_sees_the_queries_stands_in_the_transductive_table_alone(monkeypatch):
    from quickstudy.selection.comparing import simple

    monkeypatch.setattr(simple, "Prototypical", Forgets)
    tables = compared({"one": prototypical, "sees": SeesQueries})
    assert "untrained" not in {entry.name for entry in tables.inductive.entries}
    assert "transductive" in tables.inductive.left_out["untrained"]
    assert "untrained" in {entry.name for entry in tables.transductive.entries}
    assert "untrained" not in tables.transductive.left_out
