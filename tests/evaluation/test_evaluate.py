"""Evaluation: intervals, scores, plans for predicting, and errors."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import quickstudy as qs
from made_up import random_classes
from quickstudy.base.trees import map_tree
from quickstudy.compute import cost
from quickstudy.compute.engine import map_tasks
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.evaluation import mapped as module
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.mapped import plan_for, predictions_of
from quickstudy.objectives import predict_queries
from quickstudy.tasks.inspection import inspect_stack
from quickstudy.tasks.numbering import Stream, draw, draw_stacks


def test_the_interval_equals_scipys_t_interval():
    scores = torch.rand(37, dtype=torch.float64)
    low, high = stats.t.interval(0.95, 36, scores.mean(), stats.sem(scores))
    assert half_width(scores) == pytest.approx((high - low) / 2)
    assert half_width(scores[:1]) == math.inf


def test_the_interval_covers_the_mean_in_95_percent():
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 12, generator=generator)
    covered = [abs(float(row.mean()) - 0.5) <= half_width(row) for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def accuracies_one_by_one(learner, source, tasks, seed):
    accuracies = []
    for i in range(tasks):
        task = draw(source, seed, i, Stream.TEST)
        with torch.no_grad():
            chosen = learner(task.support, task.spec)(task.query.inputs).argmax(1)
        accuracies.append(float((chosen == task.query.targets).float().mean()))
    return accuracies


@pytest.mark.parametrize("ways", [5, (3, 6)])
@pytest.mark.parametrize("head", [None, 6])
def test_scores_equal_those_of_single_tasks(classes, ways, head):
    net = qs.backbones.Conv4(4, image_size=16, outputs=head)
    learner = qs.MAML(net, rate=0.1) if head else qs.Prototypical(net)
    source = qs.episodes(classes, ways, shots=(1, 3), queries=4)
    result = qs.evaluate(learner, source, 21, seed=3, tasks_per_batch=8)
    expected = accuracies_one_by_one(learner, source, 21, 3)
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    assert result.mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert result.metric == "accuracy"
    assert 0 < result.seconds_per_adaptation < 10


def test_same_seed_gives_the_same_tasks_and_the_learners_modes_are_restored(classes):
    learner = qs.Prototypical(qs.backbones.Conv4(4, "running", image_size=16)).train()
    learner.backbone.blocks[0].eval()  # frozen by its owner
    source = qs.episodes(classes, 5, 1, 3)
    first, second = (qs.evaluate(learner, source, 10) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.scores.equal(second.scores)
    assert qs.evaluate(learner, source, 10, seed=1).fingerprint != first.fingerprint
    assert learner.training
    assert not learner.backbone.blocks[0].training


@pytest.mark.parametrize(
    ("norm", "transductive"), [("group", False), ("batch", True), ("support", False)]
)
def test_the_protocol_is_reported(classes, norm, transductive):
    learner = qs.Prototypical(qs.backbones.Conv4(4, norm, image_size=16))
    result = qs.evaluate(learner, qs.episodes(classes, 5, 1, 3), 5)
    assert result.transductive is transductive
    assert result.norm == norm
    assert result.protocol in str(result)


def test_torchs_batch_norm_is_reported_as_transductive():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8, track_running_stats=False)
    )
    result = qs.evaluate(qs.Prototypical(net), qs.episodes(random_classes(), 5, 1, 3), 5)
    assert result.transductive
    assert result.norm == "torch BatchNorm1d"


def test_a_backbone_that_vmap_cannot_map_is_looped(classes):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(16, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(x.squeeze(1))[0][:, -1]

    learner = qs.Prototypical(Reader())
    source = qs.episodes(classes, 5, 1, 3)
    expected = accuracies_one_by_one(learner, source, 6, 0)
    np.testing.assert_allclose(qs.evaluate(learner, source, 6).scores, expected, atol=1e-6)


class ConvolutionThen(nn.Module):
    """A convolution, for which a CPU plans differently, then ``after``."""

    def __init__(self, channels=4, after=None):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3)
        self.after = after or (lambda x: x[:, :8])

    def forward(self, x):
        return self.after(self.conv(x).relu().flatten(1))


def sparse(x):
    return torch.sparse.mm(x.to_sparse(), torch.ones(x.shape[1], 3))


def branching(x):
    return torch.cond(x.sum() > 0, lambda x: x[:, :4] * 2, lambda x: x[:, :4] * 3, (x,))


def catching(x):
    try:
        x.sum().item()
    except RuntimeError as error:
        raise ValueError("cannot read a value") from error
    return x[:, :8]


def silent(x):
    if type(x.detach().sum().tolist()) is not float:
        raise AssertionError
    return x[:, :8]


def unwatchable(x):
    if _get_current_dispatch_mode() is not None:
        raise NotImplementedError
    return x[:, :8]


@pytest.mark.parametrize("after", [sparse, branching, catching, silent, unwatchable])
def test_planning_never_stops_an_evaluation(classes, after):
    torch.manual_seed(0)
    learner = qs.Prototypical(ConvolutionThen(after=after))
    source = qs.episodes(classes, 3, 1, 2)
    expected = accuracies_one_by_one(learner, source, 4, 0)
    np.testing.assert_allclose(qs.evaluate(learner, source, 4).scores, expected, atol=1e-6)


def plan_of(learner, source, tasks=16):
    stack = draw_stacks(source, 0, range(2))[0].task
    return plan_for(learner, stack, inspect_stack(stack), tasks)


def test_the_plan_follows_arithmetic_on_a_cpu(classes, monkeypatch):
    source = qs.episodes(classes, 3, 1, 2)
    for channels, mapping in ((4, Mapping.VMAP), (512, Mapping.FEATURES)):
        learner = qs.Prototypical(nn.Sequential(ConvolutionThen(channels), nn.Flatten()))
        if channels == 512:
            learner.backbone[0].conv = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 512, 3))
        assert plan_of(learner, source).mapping is mapping
    monkeypatch.setattr(module, "cost_of_one_task", lambda *_: pytest.fail("counted"))
    adapting = qs.MAML(qs.backbones.Conv4(4, image_size=16, outputs=3), rate=0.1)
    assert plan_of(adapting, source).mapping is Mapping.LOOP
    flat = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    assert plan_of(flat, source).mapping is Mapping.VMAP


class Brightness(qs.Prototypical):
    """Reads its inputs outside the backbone too, so features alone are not enough."""

    def embed(self, state, inputs):
        return super().embed(state, inputs) + 100 * inputs.flatten(1).mean(1, keepdim=True)


class SmallBrightness(Brightness):
    """Its predictions are so small that an absolute tolerance of 1e-3 would accept any."""

    def predict(self, state, inputs, spec):
        return 1e-6 * super().predict(state, inputs, spec)


@pytest.mark.parametrize(
    ("make", "mapping"),
    [
        (lambda: qs.Prototypical(qs.backbones.Conv4(image_size=16)), Mapping.FEATURES),
        (lambda: qs.MANN(qs.backbones.Conv4(image_size=16), 4, slots=16), Mapping.FEATURES),
        (lambda: qs.MetaOptNet(qs.backbones.Conv4(image_size=16)), Mapping.FEATURES),
        (lambda: qs.Prototypical(qs.backbones.Conv4(64, "batch", image_size=16)), Mapping.LOOP),
        (lambda: Brightness(qs.backbones.Conv4(image_size=16)), Mapping.LOOP),
        (lambda: SmallBrightness(qs.backbones.Conv4(image_size=16)), Mapping.LOOP),
    ],
)
def test_the_backbone_is_called_once_for_all_tasks_where_that_gives_the_same(
    classes, make, mapping, monkeypatch
):
    monkeypatch.setattr(cost.Cost, "is_arithmetic", True)
    torch.manual_seed(0)
    learner = make().double().eval()
    for source in (
        source_in_float64(qs.episodes(classes, 4, 1, 3)),
        source_in_float64(qs.episodes(classes, (2, 4), 1, 3)),
    ):
        stack = draw_stacks(source, 0, range(3))[0].task
        inspection = inspect_stack(stack)
        plan = plan_for(learner, stack, inspection, 4)
        assert plan.mapping is mapping
        expected = map_tasks(predict_queries, stack, learner, Plan(Mapping.LOOP, "", 1))
        found = predictions_of(learner, stack, plan, inspection)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def source_in_float64(source):
    def source_of_doubles(generator):
        def to_double(leaf):
            return leaf.double() if leaf.is_floating_point() else leaf

        task = source(generator)
        return task._replace(**{
            part: map_tree(to_double, getattr(task, part)) for part in ("support", "query")
        })  # fmt: skip

    return source_of_doubles


def test_regression_is_scored_by_squared_error():
    learner = qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01)
    result = qs.evaluate(learner, qs.Sinusoids(5, 30), 8)
    assert result.metric == "mse"
    assert result.calibration_error is None
    assert str(result).startswith("mse ")
    task = draw(qs.Sinusoids(5, 30), 0, 0, Stream.TEST)
    predicted = learner(task.support, task.spec)(task.query.inputs)
    expected = float((predicted - task.query.targets).square().mean().detach())
    assert float(result.scores[0]) == pytest.approx(expected, rel=1e-5)


def test_results_survive_json(classes):
    learner = qs.Prototypical(qs.backbones.Conv4(4, image_size=16))
    result = qs.evaluate(learner, qs.episodes(classes, 5, 1, 3), 10)
    again = qs.Evaluation.from_json(json.loads(json.dumps(result.to_json())))
    assert str(again) == str(result)
    np.testing.assert_allclose(again.scores, result.scores, atol=1e-6)


def test_one_task_is_refused(classes):
    learner = qs.Prototypical(qs.backbones.Conv4(4, image_size=16))
    with pytest.raises(ValueError, match="at least 2 tasks"):
        qs.evaluate(learner, qs.episodes(classes, 5, 1, 3), 1)


@pytest.mark.parametrize("part", ["support", "query"])
def test_class_ids_beyond_the_ways_are_refused_in_stacks_too(classes, part):
    source = qs.episodes(classes, 3, 1, 2)

    def shifted(generator):
        task = source(generator)
        examples = getattr(task, part)
        return task._replace(**{part: examples._replace(targets=examples.targets + 1)})

    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    with pytest.raises(ValueError, match="must lie in 0 … 2"):
        qs.evaluate(learner, shifted, 4)


def test_unlabelled_queries_and_nan_predictions_are_refused(classes):
    source = qs.episodes(classes, 3, 1, 2)

    def unlabelled(generator):
        task = source(generator)
        hidden = task.query._replace(targets=torch.full_like(task.query.targets, -1))
        return task._replace(query=hidden)

    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    with pytest.raises(ValueError, match="no labelled query"):
        qs.evaluate(learner, unlabelled, 4)
    with torch.no_grad():
        learner.backbone.layers[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        qs.evaluate(learner, source, 4)


class Mixed:
    """A random mixture of classification, regression and multi-label tasks."""

    def __call__(self, generator):
        which = int(torch.randint(3, (), generator=generator))
        x = torch.rand(12, 2, generator=generator)
        spec, y = [
            (qs.classification(2, name="side"), (x[:, 0] > x[:, 1]).long()),
            (qs.regression(name="sum"), x.sum(1, keepdim=True)),
            (qs.multilabel(2, name="large"), (x > 0.5).float()),
        ][which]
        rows = qs.examples(x, y)
        support, query = (
            map_tree(lambda leaf, p=p: leaf[p], rows) for p in (slice(6), slice(6, 12))
        )
        return qs.Task(support, query, spec)


def test_tasks_of_several_kinds_have_a_row_each_and_no_average():
    learner = qs.LinearProbe(nn.Linear(2, 3))
    result = qs.evaluate(learner, Mixed(), 30)
    found = {(row.name, row.score): row for row in result.rows}
    assert set(found) == {
        ("side", "accuracy"), ("sum", "mse"), ("large", "ROC-AUC"), ("large", "average precision"),
    }  # fmt: skip
    assert sum(row.tasks for row in result.rows if row.first) == 30
    assert found["large", "ROC-AUC"].pooled
    figures = [line for line in str(result).splitlines() if not line.startswith(" ")]
    assert len(figures) == 4
    with pytest.raises(ValueError, match="no single score"):
        _ = result.mean
    again = qs.Evaluation.from_json(json.loads(json.dumps(result.to_json())))
    assert str(again) == str(result)


def mean_absolute(predicted, true):
    return (predicted - true).abs().mean(-1)


def thousandfold(predicted, true):
    return 1000 * mean_absolute(predicted, true)


class Fitted(qs.Learner):
    """Predicts the first inputs, times one; ``shaped`` reshapes its predictions."""

    def __init__(self, shaped=lambda predictions: predictions):
        super().__init__()
        self.scale, self.shaped = nn.Parameter(torch.ones(())), shaped

    def adapt(self, support, spec):
        return {}

    def predict(self, state, inputs, spec):
        return self.shaped(self.scale * inputs[:, : spec.outputs])


def copies(spec, targets=lambda x, width: x[:, :width]):
    """A task whose targets are the first inputs."""
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    rows = qs.examples(x, targets(x, spec.outputs))
    return qs.Task(rows, rows, spec)


def positive(x, width):
    return (x[:, :width] > 0).float()


@pytest.mark.parametrize(
    ("one", "other", "score"),
    [
        (copies(qs.regression(1)), copies(qs.regression(2)), "mse"),
        (copies(qs.spec(1, mean_absolute)), copies(qs.spec(1, thousandfold)), "loss"),
        (copies(qs.multilabel(3), positive), copies(qs.multilabel(5), positive), "ROC-AUC"),
    ],
)
def test_one_result_never_holds_scores_of_answers_that_do_not_join(one, other, score):
    problem = f"one {score} for several kinds of task.*Give each kind a name of its own"
    with pytest.raises(ValueError, match=problem):
        qs.evaluate(Fitted(), qs.tasks.fixed([one, one, other]))
    with pytest.raises(ValueError, match="tasks called 'x'"):
        qs.evaluate(Fitted(), qs.tasks.fixed([named(one, "x"), named(other, "x")]))
    found = qs.evaluate(Fitted(), qs.tasks.fixed([named(one, "x"), named(other, "y")] * 2))
    assert {row.name for row in found.rows} == {"x", "y"}
    assert all(row.tasks == 2 for row in found.rows)


def named(task, name):
    return task._replace(spec=qs.TaskSpec(task.spec.answer, name))


def test_a_loss_made_in_each_draw_is_refused_with_the_remedy():
    def source(generator):
        return copies(qs.spec(1, lambda predicted, true: (predicted - true).abs()))

    with pytest.raises(ValueError, match="make its loss once, not in each draw"):
        qs.evaluate(Fitted(), source, 2)


def test_answers_that_join_share_a_result(classes):
    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    found = qs.evaluate(learner, qs.episodes(classes, (3, 6), 1, 2), 12)
    assert [(row.name, row.score, row.tasks) for row in found.rows] == [("", "accuracy", 12)]
    known = copies(qs.regression(2))
    half = known._replace(spec=qs.regression(2, missing=True))
    assert qs.evaluate(Fitted(), qs.tasks.fixed([known, half])).main.tasks == 2


@pytest.mark.parametrize(
    ("shaped", "found"),
    [
        (lambda predictions: predictions[:, 0], r"\(6,\)"),
        (lambda predictions: predictions[None], r"\(1, 6, 1\)"),
    ],
    ids=("row", "extra"),
)
def test_predictions_of_a_wrong_shape_are_refused(shaped, found):
    """Perfect predictions (n,) of targets (n, 1) would broadcast, to a large error."""
    for spec in (qs.regression(1), qs.spec(1, mean_absolute)):
        source = qs.tasks.fixed([copies(spec)] * 2)
        assert qs.evaluate(Fitted(), source).mean == 0
        with pytest.raises(ValueError, match=rf"of shape \(6, .*1\) .*; found {found}\. Reshape"):
            qs.evaluate(Fitted(shaped), source)


def test_a_wrong_shape_in_a_later_kind_of_task_stops_training_too():
    """The tests before the first step do not see it."""
    narrow = Fitted(lambda predictions: predictions[:, :1])
    tasks = [copies(qs.regression(1))] * 8 + [copies(qs.regression(2))]
    with pytest.raises(ValueError, match=r"of shape \(6, 2\) .*; found \(6, 1\)"):
        qs.fit(narrow, qs.tasks.fixed(tasks), 9, 1, progress=False)


def test_an_answer_that_the_learner_does_not_support_is_refused_with_its_name():
    learner = qs.Prototypical(qs.backbones.MLP(8, (4,)))
    with pytest.raises(ValueError, match="gives answers of the kind Classes, but the task needs"):
        qs.evaluate(learner, qs.tasks.fixed([copies(qs.regression(1))] * 2))


@pytest.mark.parametrize("fixed", [True, False])
def test_the_error_of_a_task_draws_it_again(fixed):
    good = copies(qs.regression(1))
    bad = good._replace(query=good.query._replace(weights=torch.zeros(6)))
    seeds = {qs.tasks.task_seed(3, 9, Stream.TEST)}

    def source(generator):
        return bad if generator.initial_seed() in seeds else good

    source = qs.tasks.fixed([good] * 9 + [bad]) if fixed else source
    with pytest.raises(ValueError, match="has no labelled query") as error:
        qs.evaluate(Fitted(), source, 10, seed=3)
    call = re.search(
        r"quickstudy\.tasks\.draw\(source, (\d+), (\d+), Stream\.(\w+)\)", str(error.value)
    )
    assert call is not None
    seed, number, stream = call.groups()
    assert draw(source, int(seed), int(number), Stream[stream]) is bad


def test_every_task_is_drawn_once_and_in_order(classes):
    """Otherwise a source that counts its calls would be scored on the wrong tasks."""
    source = qs.episodes(classes, 3, 1, 2)
    seen = []

    def watched(generator):
        seen.append(generator.initial_seed())
        return source(generator)

    qs.evaluate(qs.Prototypical(qs.backbones.MLP(256, (4,))), watched, 20)
    assert seen == [qs.tasks.task_seed(0, i, Stream.TEST) for i in range(20)]


def test_no_training_task_of_an_unsplit_source_is_a_test_task(classes):
    source = qs.episodes(classes, 3, 1, 2)
    seeds = []

    def watched(generator):
        seeds.append(generator.initial_seed())
        return source(generator)

    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    qs.fit(learner, watched, 5, 4, progress=False)
    trained = set(seeds)
    seeds.clear()
    qs.evaluate(learner, watched, 50)
    assert not trained & set(seeds)


def test_fixed_tasks_are_each_scored_once(classes):
    given = [draw(qs.episodes(classes, 3, 1, 2), 7, i) for i in range(5)]
    learner = qs.Prototypical(qs.backbones.MLP(256, (4,)))
    results = [qs.evaluate(learner, qs.tasks.fixed(given), seed=seed) for seed in (0, 1)]
    assert results[0].tasks == 5
    assert results[0].fingerprint == results[1].fingerprint
    assert results[0].scores.equal(results[1].scores)
