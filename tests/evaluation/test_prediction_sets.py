"""Prediction sets, abstention and stranger scores of learners whose logits are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, planes, yes_or_no
from quickstudy.core import Examples, Learner, Task, TaskSpec
from quickstudy.evaluation.prediction_sets import PredictionSets
from quickstudy.tasks.numbering import Stream, draw

WAYS = 5


class Given(Learner):
    """Its inputs are its logits."""

    answers = (qs.answers.Classes, qs.answers.Labels, qs.answers.Pixels, qs.answers.Reals)

    def adapt(self, support: Examples, spec: TaskSpec) -> dict[str, Tensor]:
        return {"any": support.inputs[:1]}

    def predict(self, state: dict[str, Tensor], inputs: Tensor, spec: TaskSpec) -> Tensor:
        return inputs[..., : spec.outputs]


def logits_of(confident: float, queries: int = 30, ways: int = WAYS) -> Any:
    """Tasks whose inputs are logits; the true class's is higher by a normal number around that."""

    def source(generator: torch.Generator) -> Task:
        def rows(n: int) -> Examples:
            ids = torch.arange(n) % ways
            noise = torch.randn(n, ways, generator=generator)
            return qs.examples(noise + confident * nn.functional.one_hot(ids, ways), ids)

        return Task(rows(ways), rows(queries), qs.classification(ways))

    return source


def covered(calibration: qs.Calibration, source: Any, coverage: float, tasks: int = 80) -> Any:
    """(tasks,) shares of covered queries, and all set sizes."""
    shares, sizes = [], []
    for number in range(tasks):
        support, query, spec = draw(source, 0, number, Stream.TEST)
        sets = qs.prediction_sets(Given()(support, spec), query.inputs, coverage, calibration)
        true = sets.contains.gather(1, query.targets[:, None])
        shares.append(float(true.float().mean()))
        sizes.append(sets.sizes)
    return np.array(shares), torch.cat(sizes).double()


@pytest.mark.parametrize("coverage", [0.6, 0.9, 0.97])
def test_sets_have_the_coverage_asked_for(coverage: float) -> None:
    """Over 80 tasks of 30 rows, the standard error of a share is 0.008, and of the bound's too."""
    calibration = qs.calibrate(Given(), logits_of(2.0), 80)
    shares, _ = covered(calibration, logits_of(2.0), coverage)
    assert abs(shares.mean() - coverage) < 0.03


def test_below_the_accuracy_sets_are_empty_sometimes_and_above_it_large() -> None:
    """At an accuracy near 97%, sets of 90% have less than one class on average."""
    source = logits_of(3.4)
    accuracy = qs.evaluate(Given(), source, 80, baselines=False).mean
    assert 0.95 < accuracy < 0.99
    calibration = qs.calibrate(Given(), source, 80)
    shares, sizes = covered(calibration, source, 0.9)
    assert abs(shares.mean() - 0.9) < 0.03
    assert 0.85 < float(sizes.mean()) < 1
    assert float((sizes == 0).double().mean()) > 0.02
    assert float(covered(calibration, source, 0.985, 50)[1].mean()) > 1


def predictor_of(ways: int = WAYS, learner: Learner | None = None) -> qs.Predictor:
    rows = qs.examples(torch.zeros(ways, ways), torch.arange(ways))
    return (learner or Given())(rows, qs.classification(ways))


def test_a_set_has_the_classes_whose_probability_reaches_the_bound() -> None:
    calibration = qs.calibrate(Given(), logits_of(2.0), 40)
    inputs = torch.randn(50, WAYS, generator=torch.Generator().manual_seed(3))
    sets = qs.prediction_sets(predictor_of(), inputs, 0.8, calibration)
    powers = np.exp(inputs.double().numpy())
    least = np.exp(-calibration.bound(0.8))
    expected = powers / powers.sum(1, keepdims=True) >= least
    assert np.array_equal(sets.contains.numpy(), expected)
    assert sets.ids == [np.flatnonzero(row).tolist() for row in expected]
    assert len(sets) == 50


def test_what_a_set_says() -> None:
    contains = torch.tensor([[True, False], [True, True], [False, False]])
    sets = PredictionSets(contains, 0.9)
    assert sets.only.tolist() == [0, -1, -1]
    assert sets.sizes.tolist() == [1, 2, 0]
    assert sets.named(["cat", "dog"]) == [["cat"], ["cat", "dog"], []]


def test_one_answers_where_the_set_has_one_class() -> None:
    calibration = qs.calibrate(Given(), logits_of(2.0), 40)
    inputs = torch.tensor([[9.0, 0, 0, 0, 0], [9, 9, 0, 0, 0], [0, 0, 0, 0, 0], [0, 7, 0, 0, 0]])
    assert qs.abstain(predictor_of(), inputs, 0.9, calibration).tolist() == [0, -1, -1, 1]


def test_strangers_are_not_sure_too_and_known_rows_as_rarely_as_asked() -> None:
    source = logits_of(6.0)
    calibration = qs.calibrate(Given(), source, 80)
    strange = torch.tensor([[6.0, 0, 0, 0, 0], [-20, -30, -30, -30, -30]])
    assert qs.abstain(predictor_of(), strange, 0.95, calibration).tolist() == [0, 0]
    found = qs.abstain(predictor_of(), strange, 0.95, calibration, false_alarms=0.05)
    assert found.tolist() == [0, -1]
    scores = torch.cat([
        qs.stranger_score(predictor_of(), draw(source, 0, n, Stream.TEST).query.inputs)
        for n in range(80)
    ])  # fmt: skip
    alarms = (scores.double() > calibration.stranger_bound(0.1)).double().mean()
    assert abs(float(alarms) - 0.1) < 0.03


def test_scores_of_strangers() -> None:
    inputs = torch.tensor([[1.0, 5.0], [-3.0, -4.0]])
    rows = qs.examples(torch.zeros(2, 2), [0, 1])
    assert qs.stranger_score(Given()(rows, qs.classification(2)), inputs).tolist() == [-5, 3]
    labels = qs.examples(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert qs.stranger_score(Given()(labels, qs.multilabel(2)), inputs).tolist() == [-5, 3]
    pixels = qs.examples(torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 3, dtype=torch.long))
    found = qs.stranger_score(Given()(pixels, qs.segmentation(2)), inputs.expand(4, 3, 2, 2))
    assert found.shape == (4, 3, 2)


def test_the_largest_logit_of_one_shot_prototypes_is_the_nearest_row() -> None:
    torch.manual_seed(0)
    learner = qs.Prototypical(qs.backbones.MLP(4, (8,)))
    support, query, spec = draw(clouds(), 0, 0)
    predictor = learner(support, spec)
    by_logit = qs.stranger_score(predictor, query.inputs)
    by_row = qs.stranger_score(predictor, query.inputs, support)
    torch.testing.assert_close(by_logit, by_row, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        rows, asked = (learner.backbone(each.inputs) for each in (support, query))
    expected = (asked[:, None] - rows).square().sum(-1).min(1).values
    torch.testing.assert_close(by_row, expected, rtol=1e-4, atol=1e-5)
    # A row without weight is not there.
    fewer = support._replace(weights=torch.tensor([1.0, 1.0, 0.0]))
    found = qs.stranger_score(predictor, query.inputs, fewer)
    expected = (asked[:, None] - rows[:2]).square().sum(-1).min(1).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_strangers_stand_out_by_distance_and_less_by_softmax() -> None:
    """Eight random classes of vectors, four of them unknown; the mean of ten tasks."""
    areas: dict[str, list[float]] = {"logit": [], "softmax": []}
    for seed in range(10):
        support, query, _ = draw(clouds(8, 1, 10, d=8), seed, 0)
        known = qs.examples(support.inputs[:4], support.targets[:4])
        predictor = qs.Prototypical(nn.Flatten())(known, qs.classification(4))
        strange = (query.targets >= 4).double()
        softmax = 1 - predictor(query.inputs).softmax(1).max(1).values
        for name, score in (
            ("logit", qs.stranger_score(predictor, query.inputs)), ("softmax", softmax)
        ):  # fmt: skip
            wins = (score[strange == 1][:, None] > score[strange == 0]).double().mean()
            areas[name].append(float(wins))
    assert np.mean(areas["logit"]) > np.mean(areas["softmax"]) + 0.05
    assert np.mean(areas["logit"]) > 0.9


class Probabilities(Given):
    """Logarithms of probabilities, as of a learner that mixes labels by attention."""

    def predict(self, state: dict[str, Tensor], inputs: Tensor, spec: TaskSpec) -> Tensor:
        return inputs.log_softmax(-1)


def test_logarithms_of_probabilities_say_nothing_about_strangers() -> None:
    predictor = predictor_of(learner=Probabilities())
    with pytest.raises(ValueError, match=r"logarithms of probabilities.*support="):
        qs.stranger_score(predictor, torch.randn(4, WAYS))
    with pytest.raises(ValueError, match="Probabilities has no features"):
        qs.stranger_score(predictor, torch.zeros(4, WAYS), qs.examples(torch.zeros(1, WAYS), [0]))
    calibration = qs.calibrate(Probabilities(), logits_of(2.0), 20)
    assert calibration.strangeness is None
    assert len(qs.prediction_sets(predictor, torch.zeros(4, WAYS), 0.9, calibration)) == 4
    with pytest.raises(ValueError, match="Leave false_alarms out"):
        qs.abstain(predictor, torch.zeros(4, WAYS), 0.9, calibration, 0.1)


def test_rows_left_out_of_the_support_calibrate_too() -> None:
    """25 tasks of 25 support rows: single rows are groups, and the coverage is near 90%.

    The standard error over tasks is about 0.01.
    """
    learner, source, shares = qs.Prototypical(nn.Flatten()), clouds(5, 5, 10, d=3), []
    for number in range(25):
        support, query, spec = draw(source, 0, number)
        calibration = qs.calibrate_on_support(learner, support, spec)
        assert [len(each) for each in calibration.true_class] == [1] * 25
        sets = qs.prediction_sets(learner(support, spec), query.inputs, 0.9, calibration)
        shares.append(float(sets.contains.gather(1, query.targets[:, None]).double().mean()))
    assert 0.86 < np.mean(shares) < 0.96


def test_left_out_scores_equal_those_of_a_loop() -> None:
    learner = qs.Prototypical(nn.Flatten())
    support, _, spec = draw(clouds(3, 4, 2), 0, 0)
    calibration = qs.calibrate_on_support(learner, support, spec)
    expected = []
    for row in range(12):
        kept = torch.arange(12) != row
        rest = qs.examples(support.inputs[kept], support.targets[kept])
        logs = learner(rest, spec)(support.inputs[row : row + 1]).double().log_softmax(1)
        expected.append(float(-logs[0, support.targets[row]]))
    found = [float(each) for each in calibration.true_class]
    assert found == pytest.approx(expected, rel=1e-5)


def test_unknown_and_weightless_queries_do_not_count() -> None:
    source = logits_of(2.0)

    def hidden(generator: torch.Generator) -> Task:
        task = source(generator)
        targets, weights = task.query.targets.clone(), task.query.weights.clone()
        targets[::2], weights[1::4] = -1, 0.0
        return task._replace(query=task.query._replace(targets=targets, weights=weights))

    some, whole = (qs.calibrate(Given(), each, 12) for each in (hidden, source))
    assert [len(each) for each in some.true_class] == [7] * 12
    assert torch.equal(some.true_class[0], whole.true_class[0][3::4])


def test_a_calibration_is_saved_alone_and_with_a_predictor(tmp_path: Path) -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4, (8,)))
    support, query, spec = draw(clouds(), 0, 0)
    predictor = learner(support, spec)
    calibration = qs.calibrate(learner, clouds(), 20)
    again = qs.Calibration.load(calibration.save(tmp_path / "calibration.json"))
    assert again.bound(0.9) == pytest.approx(calibration.bound(0.9), rel=1e-6)
    assert again.stranger_bound(0.1) == pytest.approx(calibration.stranger_bound(0.1), rel=1e-6)
    loaded = qs.load(qs.save(calibration.on(predictor), tmp_path / "predictor.safetensors"))
    sets = [
        qs.prediction_sets(p, query.inputs, 0.9, c).contains
        for p, c in ((predictor, calibration), (loaded, None))
    ]
    assert torch.equal(*sets)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("weights"), lambda v: v["true_class"].append([1.0]),
        lambda v: v.update(true_class=[]), lambda v: v["true_class"].__setitem__(0, [None] * 2),
        lambda v: v.update(temperature=0), lambda v: v.update(ways="all"),
        lambda v: v.update(weights=[[-1.0] * 6] * 20), lambda v: v.update(strangeness=[[0.0]]),
        lambda v: v.update(strangeness=[]), lambda v: v.update(ways=[]),
        lambda v: v.update(true_class=json.loads("[" * 60 + "]" * 60)),
    ],
)  # fmt: skip
def test_a_file_edited_by_hand_is_refused(change: Any, tmp_path: Path) -> None:
    values = qs.calibrate(Given(), clouds(queries=2, d=3), 20).to_json()
    change(values)
    (tmp_path / "edited.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"edited.json: .*damaged.*use another copy"):
        qs.Calibration.load(tmp_path / "edited.json")


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"other.json: .*use another copy"):
        qs.Calibration.load(tmp_path / "other.json")


def test_a_temperature_is_applied_to_probabilities_only() -> None:
    """With noise of variance 1, the logits 2 z are those of the true probabilities; given are 4 z.

    The temperature is then 2; of ten seeds, the farthest was 1.82.
    """
    calibration = qs.calibrate(Given(), lambda g: _hot(logits_of(2.0)(g)), 80)
    assert calibration.temperature == pytest.approx(2, rel=0.2)
    inputs = torch.randn(4, WAYS)
    found = calibration.probabilities(predictor_of(), inputs)
    torch.testing.assert_close(found, (inputs / calibration.temperature).softmax(1))


def _hot(task: Task) -> Task:
    """The same task with logits four times as large: far too sure of themselves."""
    return task._replace(query=task.query._replace(inputs=4 * task.query.inputs))


BAD: dict[str, tuple[Any, str]] = {
    "coverage 1": (lambda p, x, c: qs.prediction_sets(p, x, 1.0, c), "share between 0 and 1"),
    "coverage 90": (lambda p, x, c: qs.abstain(p, x, 90, c), "share between 0 and 1"),
    "false alarms": (lambda p, x, c: qs.abstain(p, x, 0.9, c, 1.5), "false_alarms: must be.*0.05"),
    "too few": (lambda p, x, c: qs.prediction_sets(p, x, 0.99, c), "at least 99 tasks .*found 20"),
    "none": (lambda p, x, c: qs.prediction_sets(p, x, 0.9), "this predictor has none"),
    "not one": (lambda p, x, c: qs.prediction_sets(p, x, 0.9, 0.1), "must be a Calibration"),
    "NaN": (lambda p, x, c: qs.prediction_sets(p, x * torch.nan, 0.9, c), "finite"),
    "infinite": (lambda p, x, c: qs.stranger_score(p, x * torch.inf), "finite"),
    "no tasks": (lambda p, x, c: qs.calibrate(Given(), logits_of(1.0), 0), "tasks"),
    "no learner": (lambda p, x, c: qs.calibrate(p, logits_of(1.0)), "must be a Learner"),
    "other ways": (
        lambda p, x, c: qs.prediction_sets(predictor_of(3), x, 0.9, c), "tasks of 5 classes"
    ),
    "other learner": (
        lambda p, x, c: qs.prediction_sets(predictor_of(learner=Probabilities()), x, 0.9, c),
        "made for Given",
    ),
    "regression": (lambda p, x, c: qs.calibrate(Given(), planes(), 5), "must ask for classes"),
    "regression sets": (
        lambda p, x, c: qs.prediction_sets(_adapted(planes()), x, 0.9, c), "must ask for classes"
    ),
    "labels": (lambda p, x, c: qs.calibrate(Given(), yes_or_no(), 5), "must ask for classes"),
    "strange reals": (lambda p, x, c: qs.stranger_score(_adapted(planes()), x), "no known class"),
    "one row each": (
        lambda p, x, c: qs.calibrate_on_support(
            Given(), qs.examples(torch.zeros(5, 5), torch.arange(5)), qs.classification(5)
        ),
        "two labelled rows",
    ),
}  # fmt: skip


def _adapted(source: Any) -> qs.Predictor:
    task = draw(source, 0, 0)
    return Given()(task.support, task.spec)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_remedy(case: str) -> None:
    call, message = BAD[case]
    calibration = qs.calibrate(Given(), logits_of(2.0), 20)
    with pytest.raises(ValueError, match=message):
        call(predictor_of(), torch.zeros(3, WAYS), calibration)


def test_no_rows_give_no_sets() -> None:
    calibration = qs.calibrate(Given(), logits_of(2.0), 20)
    empty = torch.zeros(0, WAYS)
    assert qs.prediction_sets(predictor_of(), empty, 0.9, calibration).ids == []
    assert qs.abstain(predictor_of(), empty, 0.9, calibration, 0.1).shape == (0,)
    assert qs.stranger_score(predictor_of(), empty).shape == (0,)
