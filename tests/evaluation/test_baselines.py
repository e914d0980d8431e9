"""Baselines on the same tasks: what they are, and what a result says beside them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import quickstudy as qs
from made_up import bright_places, clouds, planes, random_classes, yes_or_no
from quickstudy.answers.classes import Accuracy
from quickstudy.core import Examples, Learner, State, Task, TaskSource, TaskSpec
from quickstudy.evaluation import evaluate as module
from quickstudy.evaluation.compared import Compared
from quickstudy.evaluation.result import result_of
from quickstudy.evaluation.untrained import untrained
from quickstudy.tasks.numbering import Stream, draw
from test_every_answer import Tagger, tagging

NEAREST, FEATURES, WHOLE = (
    "nearest mean of the inputs", "nearest mean of untrained features", "untrained learner",
)  # fmt: skip


class Constant(Learner):
    """Says class 1 always."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return torch.eye(spec.outputs)[1].expand(len(inputs), -1)


def baseline(result: qs.Evaluation, name: str) -> Compared:
    return next(each for each in result.main.baselines if each.name == name)


def test_a_learner_at_chance_is_said_to_be_no_better() -> None:
    result = qs.evaluate(Constant(), qs.episodes(random_classes(), 3, 1, 4), 20)
    chance = baseline(result, "chance")
    assert chance.mean == result.mean == pytest.approx(1 / 3)
    assert (chance.gain, chance.gain_half_width, chance.in_interval) == (0, 0, True)
    assert chance.verdict == "no better"
    assert result.main.better is False
    assert "no better than chance, 33.3%, which the interval contains (difference +0.0 ± 0.0)" in (
        str(result)
    )
    assert [each.name for each in result.main.baselines] == ["chance", NEAREST, WHOLE]


def uneven(generator: torch.Generator, common: int, in_support: bool) -> Task:
    """Two classes; 8 of 10 queries are of the ``common`` one, so are 4 of 5 support rows or 2."""
    other = 1 - common
    support = [common] * 4 + [other] if in_support else [0, 0, 1, 1]
    query = [common] * 8 + [other] * 2
    x = torch.rand(len(support) + 10, 3, generator=generator)
    n = len(support)
    return Task(
        qs.examples(x[:n], torch.tensor(support)), qs.examples(x[n:], torch.tensor(query)),
        qs.classification(2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "in_support", "expected"), [(False, False, 0.8), (True, True, 0.8), (True, False, 0.5)]
)
def test_chance_is_the_share_of_the_commonest_class(
    own: bool, in_support: bool, expected: float
) -> None:
    """It is the same class in all tasks, or each task's own, which only the support can tell."""
    tasks = [
        uneven(torch.Generator().manual_seed(i), i % 2 if own else 0, in_support) for i in range(10)
    ]
    result = qs.evaluate(Constant(), qs.tasks.fixed(tasks))
    assert baseline(result, "chance").mean == pytest.approx(expected)


def test_the_nearest_mean_is_a_prototypical_network_without_a_network() -> None:
    classes = random_classes()
    source = qs.episodes(classes, (3, 5), (1, 3), 4)
    result = qs.evaluate(qs.Prototypical(qs.backbones.MLP(256, (4,))), source, 12)
    plain = qs.evaluate(qs.Prototypical(nn.Flatten()), source, 12)
    assert baseline(result, NEAREST).values.tolist() == pytest.approx(plain.scores.tolist())
    assert result.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("norm", "head"), [("group", 3), ("batch", None), ("support", None), ("running", None)]
)
def test_untrained_features_are_those_of_the_same_backbone_before_training(
    norm: str, head: int | None
) -> None:
    net = qs.backbones.Conv4(4, norm, image_size=16, outputs=head)
    source = qs.episodes(random_classes(), 3, 1, 2)
    learner = qs.MAML(net, steps=1) if head else qs.Prototypical(net)
    first = baseline(qs.evaluate(learner, source, 3), FEATURES)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            assert norm == "running", name
            buffer.add_(1)
    after = baseline(qs.evaluate(learner, source, 3), FEATURES)
    assert first.values.tolist() == after.values.tolist()
    fresh = untrained(qs.backbones.Conv4(4, norm, image_size=16))
    expected = qs.evaluate(qs.Prototypical(fresh), source, 3, baselines=False)
    assert after.values.tolist() == pytest.approx(expected.scores.tolist())


class Own(nn.Module):
    """A backbone outside of the library, with parts that torch initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.LayerNorm(16))
        self.mix = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.net(images)[:, None]
        mixed: Tensor = self.mix(rows, rows, rows)[0][:, 0]
        return mixed


def test_a_backbone_of_ones_own_is_initialised_part_by_part() -> None:
    net = Own().double()
    before = torch.get_rng_state()
    first, again = untrained(net), untrained(net)
    assert torch.get_rng_state().equal(before), "the global generator is left alone"
    for a, b, own in zip(first.parameters(), again.parameters(), net.parameters(), strict=True):
        assert a.equal(b)
        assert a.dtype == torch.float64
        assert not a.requires_grad
        assert own.requires_grad
        assert a.unique().numel() == 1 or not a.equal(own), "ones and zeros are as they were"


def test_what_cannot_be_initialised_is_left_out_with_the_reason() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            return self.scale * images.flatten(1)

    source = qs.episodes(random_classes(), 5, 1, 3)
    result = qs.evaluate(qs.Prototypical(Scaled()), source, 4)
    assert [each.name for each in result.main.baselines] == ["chance", NEAREST]
    assert result.left_out == {
        FEATURES: "Scaled has parameters, but no method reset_parameters that initialises them"
    }
    assert f"no {FEATURES}: Scaled has parameters, but no method" in str(result)
    again = qs.Evaluation.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert again.left_out == result.left_out


def test_ids_have_no_mean() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids).mean(1)

    rows = qs.LabelledRows(
        torch.arange(40).reshape(20, 2) % 10, torch.full((5,), 4), tuple("abcde")
    )
    result = qs.evaluate(qs.Prototypical(Embedded()), qs.episodes(rows, 3, 1, 2), 4)
    assert result.left_out == {NEAREST: "the inputs are not reals with a mean for each class"}
    assert [each.name for each in result.main.baselines] == ["chance", FEATURES]


def test_the_difference_is_a_paired_interval() -> None:
    counts = torch.tensor([[9, 7], [8, 8], [10, 7], [7, 5]])
    own, other = (
        [{"right": torch.tensor(float(n)), "total": torch.tensor(10.0)} for n in column]
        for column in counts.T
    )
    row = result_of("", Accuracy(), own, baselines={"other": [other]})
    (found,) = row.baselines
    low, high = stats.ttest_rel(*(counts.T / 10).numpy()).confidence_interval(0.95)
    assert found.gain == pytest.approx((high + low) / 2)
    assert found.gain_half_width == pytest.approx((high - low) / 2)
    assert found.in_interval, "the unpaired interval is much wider"
    assert found.verdict == ("better" if low > 0 else "no better")


SOURCES: dict[str, tuple[TaskSource, Learner, list[str]]] = {
    "classes": (clouds(), qs.Prototypical(nn.Linear(4, 3)), ["chance", NEAREST, FEATURES]),
    "reals": (planes(2, True), qs.LinearProbe(nn.Linear(4, 3)), ["mean of the support", WHOLE]),
    "labels": (yes_or_no(), qs.LinearProbe(nn.Linear(4, 3)), ["chance", NEAREST, FEATURES]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_every_score_has_its_baselines_and_survives_json(kind: str) -> None:
    source, learner, names = SOURCES[kind]
    result = qs.evaluate(learner, source, 8)
    assert result.left_out == {}
    for row in result.rows:
        assert [each.name for each in row.baselines] == names
    again = qs.Evaluation.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert str(again) == str(result)
    for one, other in zip(result.rows, again.rows, strict=True):
        for before, after in zip(one.baselines, other.baselines, strict=True):
            np.testing.assert_allclose(before.values, after.values, rtol=1e-7)
            assert before.verdict == after.verdict


def test_the_mean_of_the_support_is_taken_over_known_numbers() -> None:
    result = qs.evaluate(qs.LinearProbe(nn.Linear(4, 3)), planes(2, missing=True), 5)
    found = baseline(result, "mean of the support")
    tasks = [draw(planes(2, missing=True), 0, i, Stream.TEST) for i in range(5)]
    expected = []
    for task in tasks:
        mean = np.nan_to_num(np.nanmean(task.support.targets.numpy(), 0))
        expected.append(np.nanmean((task.query.targets.numpy() - mean) ** 2))
    assert found.values.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.gain == pytest.approx(found.mean - result.mean), "lower is better"


def test_labels_are_guessed_at_half_the_area() -> None:
    source, learner, _ = SOURCES["labels"]
    result = qs.evaluate(learner, source, 30)
    area, precision = (row.baselines[0].mean for row in result.rows)
    assert area == 0.5
    targets = torch.cat([draw(source, 0, i, Stream.TEST).query.targets for i in range(30)])
    assert precision == pytest.approx(float(targets.nanmean(0).mean()), abs=1e-6)


def test_pixels_have_a_nearest_mean_colour() -> None:
    """Bright pixels are of one class, so the nearest mean is nearly always right."""
    source = bright_places()
    task = source(torch.Generator().manual_seed(0))
    answer = task.spec.answer
    found = answer.nearest_mean(task.support, task.query).argmax(-1)
    known = task.query.targets >= 0
    assert float((found == task.query.targets)[known].float().mean()) > 0.9
    flat = task.query._replace(inputs=torch.rand(2, 5))
    assert answer.nearest_mean(task.support, flat) is None


def test_random_actions_earn_what_an_indifferent_policy_earns() -> None:
    class Indifferent(Learner):
        def prior(self, spec: TaskSpec) -> State:
            return {}

        def adapt(self, support: Examples, spec: TaskSpec) -> State:
            return {}

        def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
            return torch.ones(len(inputs), spec.outputs)

    result = qs.evaluate(Indifferent(), qs.tasks.Bandits(arms=3, pulls=4), 10)
    found = baseline(result, "random actions")
    assert found.values.tolist() == pytest.approx(result.scores.tolist())


def test_they_can_be_turned_off_and_validation_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = qs.episodes(random_classes(), 3, 1, 2)
    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    on, off = (qs.evaluate(learner, source, 6, baselines=each) for each in (True, False))
    assert on.scores.equal(off.scores)
    assert on.fingerprint == off.fingerprint
    assert (off.main.baselines, off.main.better) == ((), None)
    monkeypatch.setattr(module, "Baselines", lambda _: pytest.fail("computed in validation"))
    validation = qs.Validation(source, every=1, tasks=2)
    qs.fit(learner, source, 1, 2, validation=validation, progress=False)


def test_a_baseline_with_an_error_does_not_stop_the_evaluation() -> None:
    class Once(nn.Linear):
        """Works with its trained weights only."""

        def reset_parameters(self) -> None:
            super().reset_parameters()
            nn.init.constant_(self.weight, torch.nan)

    net = nn.Sequential(nn.Flatten(), Once(256, 4))
    nn.init.normal_(net[1].weight)
    result = qs.evaluate(qs.Prototypical(net), qs.episodes(random_classes(), 3, 1, 2), 4)
    assert result.left_out == {FEATURES: "a prediction is NaN or infinite"}


def test_a_rival_scores_by_every_score_what_it_scores_alone():
    """Of tokens, so that some scores are of decoded output."""
    torch.manual_seed(0)
    learner, rival = qs.MAML(Tagger(), 1, 0.1), qs.MAML(Tagger(), 1, 0.1)
    found = qs.evaluate(learner, tagging, 4, rivals={"another start": rival})
    alone = qs.evaluate(rival, tagging, 4, baselines=False)
    assert any(score.decoded for score in qs.tokens(2).answer.scores)
    for row, own in zip(found.rows, alone.rows, strict=True):
        stored = {each.name: each for each in row.baselines}["another start"]
        torch.testing.assert_close(stored.values, own.values, equal_nan=True)
        assert not torch.equal(row.values, own.values) or row.score == "exact match"


def test_a_rival_that_fails_is_left_out_with_its_reason():
    result = qs.evaluate(Constant(), clouds(), 3, rivals={"pixels": qs.MAML(nn.Linear(9, 3))})
    assert "pixels" in result.left_out
    assert result.main.mean == pytest.approx(1 / 3)
