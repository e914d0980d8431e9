"""The interval over other trainings and other classes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

import quickstudy as qs
from made_up import random_classes
from quickstudy.evaluation.over_trainings import Members, over_trainings, variance_of_mean
from quickstudy.evaluation.paired import pairs
from quickstudy.evaluation.task_classes import TaskClasses
from quickstudy.tasks.numbering import Stream, generator, task_seed


def drawn(tasks: int, classes: int, ways: int, seed: int = 0) -> TaskClasses:
    rng = np.random.default_rng(seed)
    return TaskClasses.of(
        [frozenset(f"{c:03}" for c in rng.choice(classes, ways, False)) for _ in range(tasks)]
    )


def membership(classes: TaskClasses) -> np.ndarray:
    """(tasks, classes): 1 where the task has the class."""
    return np.array([[float(c in ids) for c in range(len(classes.names))] for ids in classes.ids])


def half_of(parts: list[np.ndarray], classes: TaskClasses | None) -> float:
    found = over_trainings(parts, classes, classes is not None).interval
    assert found is not None
    return (found.high - found.low) / 2


def test_it_is_the_two_level_bootstrap_less_what_that_counts_twice() -> None:
    """The resampling that the docstring tells, done 40,000 times."""
    rng, (trainings, tasks, units) = np.random.default_rng(0), (5, 60, 12)
    classes = drawn(tasks, units, 3)
    members = membership(classes)
    scores = (
        0.1 * rng.normal(size=(trainings, 1)) + 0.1 * rng.normal(size=units) @ members.T
        + 0.1 * rng.normal(size=(trainings, units)) @ members.T
        + 0.05 * rng.normal(size=(trainings, tasks))
    )  # fmt: skip
    centred, times = scores - scores.mean(), 40_000
    u = rng.multinomial(trainings - 1, np.full(trainings, 1 / trainings), times) / (trainings - 1)
    w = rng.multinomial(units - 1, np.full(units, 1 / units), times) * units / (units - 1)
    weights = 1 + (w - 1) @ members.T
    everything = np.einsum("bs,st,bt->b", u, centred, weights, optimize=True) / tasks
    of_trainings = (u @ centred.mean(1)).var()
    of_classes = (weights @ centred.mean(0) / tasks).var()
    of_both = everything.var() - of_trainings - of_classes

    own = members.sum(1)
    again = (own * (units - own)).sum() / ((units - 1) * tasks) - 1
    rest = centred - centred.mean(1, keepdims=True) - centred.mean(0)
    e2 = (rest**2).sum() / ((trainings - 1) * (tasks - 1))
    of_classes -= again * centred.mean(0).var(ddof=1) / tasks
    of_both -= again * e2 / (trainings * tasks)
    variance = of_trainings + of_classes - of_both
    freedom = variance**2 / (
        of_trainings**2 / (trainings - 1) + (of_classes - of_both) ** 2 / (units - 1)
    )
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert of_both > 0.1 * variance, "so that it matters here"
    assert half_of([scores], classes) == pytest.approx(expected, rel=0.04)


def test_its_variance_is_right_in_the_mean() -> None:
    """Scores that are sums of independent effects of trainings, classes, both, tasks and chance,
    whose mean has a variance in closed form. The standard error over 400 draws is 2%."""
    trainings, tasks, units, ways = 6, 80, 16, 2
    classes = drawn(tasks, units, ways)
    members = membership(classes)
    deviations = {"training": 0.3, "class": 0.4, "both": 0.5, "task": 0.5, "chance": 1.0}
    share = (members.sum(0) ** 2).sum() / tasks**2
    truth = (
        deviations["training"] ** 2 / trainings
        + share * (deviations["class"] ** 2 + deviations["both"] ** 2 / trainings)
        + deviations["task"] ** 2 / tasks
        + deviations["chance"] ** 2 / (trainings * tasks)
    )
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        normal = {name: scale * rng.normal(size=shape) for (name, scale), shape in zip(
            deviations.items(),
            [(trainings, 1), (1, units), (trainings, units), (1, tasks), (trainings, tasks)],
            strict=True,
        )}  # fmt: skip
        scores = (
            normal["training"] + (normal["class"] + normal["both"]) @ members.T
            + normal["task"] + normal["chance"]
        )  # fmt: skip
        found.append(variance_of_mean([scores], Members(*classes.pairs, units))[0])
    assert np.mean(found) == pytest.approx(truth, rel=0.1)


def test_without_differences_between_trainings_it_is_students_interval_over_tasks() -> None:
    values = np.random.default_rng(0).normal(size=40)
    expected = stats.t.ppf(0.975, 39) * stats.sem(values)
    assert half_of([np.stack([values] * 3)], None) == pytest.approx(expected)
    assert half_of([np.stack([values] * 3), np.zeros((3, 40))], None) == pytest.approx(expected)


def test_without_differences_between_tasks_it_is_students_or_welchs_over_trainings() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 4), rng.normal(0, 3, 3)
    one, other = (np.repeat(each[:, None], 30, 1) for each in (first, second))
    assert half_of([one], None) == pytest.approx(stats.t.ppf(0.975, 3) * stats.sem(first))
    welch = stats.ttest_ind(first, second, equal_var=False)
    interval = welch.confidence_interval()
    assert half_of([one, -other], None) == pytest.approx((interval.high - interval.low) / 2)
    assert over_trainings([one, -other], None, False).p == pytest.approx(welch.pvalue)


def test_nothing_differs() -> None:
    same = np.full((3, 20), 0.5)
    found = over_trainings([same, -same], None, False)
    assert (found.interval.low, found.interval.high, found.p) == (0.0, 0.0, 1.0)
    assert over_trainings([same], None, False).p == 0.0


def test_what_is_not_known_says_why() -> None:
    scores = np.random.default_rng(0).random((3, 30))
    enough, few = drawn(30, 12, 2), drawn(30, 9, 2)
    in_all = TaskClasses.of([frozenset({"x", f"{i % 15}"}) for i in range(30)])
    for classes, named, number, why in (
        (enough, True, 2, "2 trainings are too few, 3 are needed"),
        (enough, True, 1, "1 training is too few, 3 are needed"),
        (few, True, 3, "9 classes are too few, 10 are needed"),
        (None, True, 3, "it was not kept which classes each task has; evaluate again"),
        (in_all, True, 3, "tasks without each of the classes are needed"),
    ):
        found = over_trainings([scores[:number]], classes, named)
        assert (found.interval, found.over) == (None, why)
        assert math.isnan(found.p)
    assert over_trainings([scores], enough, True).over == "3 trainings and 12 classes"
    unnamed = "3 trainings and 30 tasks, whose classes have no names"
    assert over_trainings([scores], None, False).over == unnamed


def test_it_covers_other_classes_where_the_interval_over_tasks_does_not() -> None:
    """60 of each; benchmarks/verdicts.py has the full measurement."""
    rng, covered = np.random.default_rng(0), 0
    over_tasks = 0
    for seed in range(60):
        members = membership(drawn(100, 20, 5, seed))
        effects = 0.1 * rng.normal(size=(1, 20)) + 0.05 * rng.normal(size=(3, 20))
        scores = 0.2 * rng.normal(size=(3, 1)) + effects @ members.T
        scores = scores + 0.1 * rng.normal(size=(3, 100))
        found = over_trainings([scores], drawn(100, 20, 5, seed), True).interval
        covered += 0.0 in found
        half = stats.t.ppf(0.975, 99) * stats.sem(scores.mean(0))
        over_tasks += abs(scores.mean()) <= half
    assert covered >= 50
    assert over_tasks < 40


# Which classes each task has


def test_an_evaluation_keeps_the_classes_of_each_task() -> None:
    source = qs.episodes(random_classes(12), 3, 1, 2)
    learner = qs.Prototypical(qs.backbones.MLP(256, (8,)))
    result = qs.evaluate(learner, source, 50, seed=5, baselines=False)
    names = [frozenset(source.names(generator(task_seed(5, i, Stream.TEST)))) for i in range(50)]
    kept = result.main.task_classes
    assert [frozenset(kept.names[i] for i in ids) for ids in kept.ids] == names
    assert membership(kept).sum(1).tolist() == [3.0] * 50

    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    again = qs.Evaluation.from_json(values).main
    assert again.task_classes == kept
    results = {"a": [result.main] * 3, "b": [again] * 3}
    (pair,) = pairs(results, 0.005)
    assert pair.verdict == "equivalent"
    assert pair.others_over == "3 trainings and 12 classes"

    del values["rows"][0]["task_classes"]  # as in files that were written before
    old = qs.Evaluation.from_json(values).main
    assert old.task_classes is None
    (pair,) = pairs({"a": [old] * 3, "b": [old] * 3}, 0.005)
    assert (pair.others, pair.verdict) == (None, "equivalent")
    assert "evaluate again" in pair.others_over


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        ({"names": ["a", "a"]}, "no name may come twice"),
        ({"names": "ab"}, "names must be a list of texts"),
        ({"names": [1, 2]}, "names must be a list of texts"),
        ({"ids": [[0]]}, "there must be ids for each of 2 tasks"),
        ({"ids": [[0], [2]]}, "ids are whole numbers of 0 to 1"),
        ({"ids": [[0], [-1]]}, "ids are whole numbers of 0 to 1"),
        ({"ids": [[0], [True]]}, "ids are whole numbers of 0 to 1"),
        ({"ids": [0, 1]}, "ids are whole numbers of 0 to 1"),
        ({"ids": None}, "there must be ids for each of 2 tasks"),
    ],
)
def test_damaged_classes_are_refused(edit: dict[str, object], rule: str) -> None:
    good = {"names": ["a", "b"], "ids": [[0, 1], [1]]}
    assert TaskClasses.from_json(good, 2).to_json() == good
    with pytest.raises(ValueError, match=rule):
        TaskClasses.from_json(good | edit, 2)
