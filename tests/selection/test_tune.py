"""Tuning trains as ``fit`` does, scores on validation tasks alone, and says whether it paid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Examples, TaskSpec
from quickstudy.evaluation.paired import pairs
from quickstudy.learners.cards import Range
from quickstudy.selection.tuning.problem import TASKS
from quickstudy.selection.tuning.space import as_space, in_space, space_in_words
from quickstudy.selection.tuning.trial import seed_of
from quickstudy.selection.tuning.tuned import Tuned
from quickstudy.tasks.numbering import Stream

pytest.importorskip("optuna")

SEEN: list[int] = []


def blobs(generator: torch.Generator) -> qs.Task:
    """Two classes around points in a plane of four dimensions, of which two are noise."""
    SEEN.append(generator.initial_seed())
    centres = torch.randn(2, 4, generator=generator) * torch.tensor([2.0, 2.0, 0.0, 0.0])
    labels = torch.arange(2).repeat(8)
    rows = centres[labels] + torch.randn(16, 4, generator=generator) * torch.tensor(
        [1.0, 1.0, 3.0, 3.0]
    )
    spec = qs.classification(2)
    return qs.Task(qs.examples(rows[:4], labels[:4]), qs.examples(rows[4:], labels[4:]), spec)


def make(**options: Any) -> qs.Learner:
    return qs.Prototypical(qs.backbones.MLP(4, hidden=(8,)), **options)


def tuned(**changes: Any) -> Tuned:
    values: dict[str, Any] = {
        "make": make, "train": blobs, "validation": qs.Validation(blobs, every=4, tasks=20),
        "steps": 12, "tasks_per_step": 2, "trials": 4, "tasks": 30, "progress": False,
    }  # fmt: skip
    values |= changes
    return qs.tune(values.pop("make"), values.pop("train"), values.pop("validation"), **values)


@pytest.fixture(scope="module")
def found() -> Tuned:
    return tuned()


def test_the_first_trial_is_the_usual_training(found: Tuned) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = make()
    training = qs.fit(
        learner, blobs, 12, 2, validation=qs.Validation(blobs, every=4, tasks=20), progress=False
    )
    assert found.trials[0].score == training.best_score
    assert found.trials[0].settings == {
        "rate": 1e-3, "options.distance": "squared_euclidean", "options.scale": 1.0
    }  # fmt: skip
    seed = seed_of(0, 0, "new tasks")
    again = qs.evaluate(learner, blobs, 30, seed=seed, stream=Stream.VALIDATION, baselines=False)
    judged = found.judged(found.trials[0])
    assert judged is not None
    assert judged.mean == pytest.approx(again.mean, abs=1e-6)


def test_a_trial_is_trained_with_its_settings_and_seed(found: Tuned) -> None:
    place = next(row.place for row in found.complete if row.place)
    row = found.trials[place]
    seed = seed_of(0, place)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        distance = getattr(qs.distances, row.settings["options.distance"])
        learner = make(distance=distance, scale=row.settings["options.scale"])
    training = qs.fit(
        learner, blobs, 12, 2, optimiser=qs.optimisers.adam(row.settings["rate"]), seed=seed,
        validation=qs.Validation(blobs, every=4, tasks=20, seed=0), progress=False,
    )  # fmt: skip
    assert row.score == training.best_score


def test_no_test_task_is_drawn() -> None:
    SEEN.clear()
    tuned(trials=2)
    streams = {seed >> 30 & 3 for seed in SEEN}
    assert {Stream.TRAINING.value, Stream.VALIDATION.value} <= streams
    assert Stream.TEST.value not in streams


def test_the_best_is_compared_with_the_usual_settings_on_new_tasks() -> None:
    """With a usual learning rate that learns nothing, tuning pays."""
    found = tuned(
        rate=1e-5, rates=[1e-5, 0.03], options={}, trials=3, steps=30, tasks=60,
        validation=qs.Validation(blobs, every=30, tasks=30),
    )  # fmt: skip
    assert found.settings == {"rate": 0.03}
    gain, best, usual = found.gain, found.judged(found.best), found.judged(found.trials[0])
    assert gain is not None
    assert best is not None
    assert usual is not None
    assert gain.difference == pytest.approx(float((best.values - usual.values).mean()), abs=1e-9)
    assert gain.verdict == "better"
    assert gain == pairs({gain.first: [best], "usual": [usual]}, 0.005)[0]
    assert f"trial {found.best.place} against the usual settings" in str(found)


def test_the_report_is_strict_json_and_plain_text(found: Tuned) -> None:
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["best"] == found.best.place
    assert len(values["trials"]) == 4
    assert len(values["trials"][0]["judged"]["values"]) == 30
    text = str(found)
    assert text.splitlines()[0].split() == [
        "trial", "accuracy,", "validation", "new", "tasks", "settings"
    ]  # fmt: skip
    assert "0 (usual)" in text
    assert "4 trials: " in text


def test_a_storage_file_goes_on_and_refuses_another_problem(tmp_path: Path, found: Tuned) -> None:
    file = tmp_path / "trials"
    tuned(storage=file, trials=2)
    assert [r.score for r in tuned(storage=file).trials] == [r.score for r in found.trials]
    for changes, message in (
        ({"steps": 13}, "steps is 12 there, and 13 here"),
        ({"seed": 1}, "seed is 0 there, and 1 here"),
        ({"options": {"scale": [1.0, 2.0]}}, "space is .* here"),
        ({"train": lambda generator: blobs(generator)._replace(
            support=blobs(generator).support)}, "first training tasks is"),
        ({"make": lambda **o: qs.Prototypical(qs.backbones.MLP(4, hidden=(9,)), **o)},
         "usual learner is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tuned(storage=file, **changes)


def test_a_learner_on_frozen_features_is_tuned_without_training() -> None:
    found = tuned(make=lambda **o: qs.LinearProbe(nn.Identity(), **o), steps=0)
    assert set(found.space) == {"options.head", "options.l2", "options.scale"}
    assert all(len(row.reports) == 1 for row in found.trials)


class Fragile(qs.Learner):
    """A learner of the user's own: class means, and an error for some settings."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power, self.layer = power, nn.Linear(4, 4)
        if power > 2:
            raise RuntimeError(f"power {power} is too large")

    def adapt(self, support: Examples, spec: TaskSpec) -> Tensor:
        hot = nn.functional.one_hot(support.targets, 2).float() * support.weights[:, None]
        return hot.T @ self.layer(support.inputs) / hot.sum(0)[:, None]

    def predict(self, state: Tensor, inputs: Tensor, spec: TaskSpec) -> Tensor:
        return -(self.layer(inputs)[:, None] - state).abs().pow(self.power).sum(-1)


def test_a_failure_is_a_failed_trial_with_its_reason() -> None:
    found = tuned(make=Fragile, options={"power": [1.0, 3.0]}, rates=[], trials=6)
    failed = [row for row in found.trials if row.state == "failed"]
    assert failed
    assert all(row.settings["options.power"] == 3.0 for row in failed)
    assert failed[0].reason == "RuntimeError: power 3.0 is too large"
    assert found.options == {} or found.options == {"power": 1.0}


def test_where_every_trial_fails_the_first_reason_is_told() -> None:
    with pytest.raises(ValueError, match=r"all of 3 trials failed, the first with NonFiniteLoss"):
        _ = tuned(make=make, options={"scale": [-1.0, -2.0]}, rate=1e30, trials=3).best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be a whole number of at least 1; found 0"),
        ({"steps": -1}, "steps must be a whole number of at least 0"),
        ({"tasks": 1}, "tasks must be a whole number of at least 2"),
        ({"minutes": 0}, "minutes must be a positive number; found 0"),
        ({"validation": blobs}, "validation must be a qs.Validation; found function"),
        ({"make": lambda **_: nn.Linear(2, 2)}, "make must give a learner; found Linear"),
        ({"make": Fragile}, "nothing to try for Fragile.*Give options or rates"),
        ({"options": {"scale": 3}}, "values of options.scale must be a list or a qs.Range"),
        ({"options": {"scale": [1, 1]}}, "must be different numbers"),
        ({"options": {"scale": [[1]]}}, "must be different numbers"),
        ({"options": {"scale": Range(2, 1)}}, "from a lower to a higher number"),
        ({"rates": Range(0, 1, log=True)}, "both positive with log=True"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(**changes)


def test_a_space_knows_its_values() -> None:
    assert in_space(3, Range(1, 5))
    assert not in_space(2.5, Range(1, 5))
    assert in_space(2.5, Range(1.0, 5))
    assert not in_space(True, Range(0, 1))
    assert not in_space(float("nan"), Range(0.0, 1.0))
    assert not in_space(1, (True, False))
    assert in_space(None, as_space("x", [None, 2]))
    assert space_in_words(Range(0.001, 1.0, log=True)) == "0.001 to 1 (logarithmic)"
    assert TASKS >= 2
