"""The interval over classes, and what is said where classes are few."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import quickstudy as qs
from made_up import clouds, random_classes
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.over_classes import OverClasses, over_classes
from quickstudy.tasks.numbering import Stream, generator, task_seed

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def drawn(tasks: int, classes: int, ways: int) -> tuple[torch.Tensor, list[frozenset[str]]]:
    generator = np.random.default_rng(0)
    names = [frozenset(map(str, generator.choice(classes, ways, False))) for _ in range(tasks)]
    return torch.from_numpy(generator.random(tasks)), names


def test_it_is_the_jackknife_over_classes_less_the_noise_of_few_tasks() -> None:
    values, names = drawn(40, 12, 3)
    found = over_classes(values, names)
    seen = sorted(set().union(*names))
    assert found.count == len(seen) == 12
    without = np.array([
        np.mean([v for v, of in zip(values.tolist(), names, strict=True) if c not in of])
        for c in seen
    ])  # fmt: skip
    counts = np.array([sum(c in of for of in names) for c in seen])
    variance, share = values.numpy().var(ddof=1), 11 / 12
    jackknife = share * ((without - without.mean()) ** 2).sum()
    noise = share * variance * (counts / (40 * (40 - counts))).sum()
    over_tasks = variance / 40
    total = max(jackknife - noise + over_tasks, over_tasks)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 11) * math.sqrt(total))


def test_tasks_of_entirely_different_classes_have_the_interval_over_tasks() -> None:
    values, _ = drawn(30, 12, 3)
    names = [frozenset([str(i)]) for i in range(30)]
    assert over_classes(values, names).half_width == pytest.approx(half_width(values))


def test_few_classes_have_no_interval() -> None:
    values, names = drawn(40, 9, 3)
    assert over_classes(values, names) == OverClasses(9, math.inf)
    in_all = [of | {"x"} for of in drawn(40, 12, 3)[1]]
    found = over_classes(values, in_all)
    assert found == OverClasses(13, math.inf)
    assert "tasks without each of them are needed" in found.remark("")


def test_it_is_never_narrower_than_over_tasks() -> None:
    """Few tasks from many classes: there are fewer degrees of freedom over tasks."""
    for seed in range(20):
        values = torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = over_classes(values, [frozenset({f"{i}", f"{i + 6}"}) for i in range(6)])
        assert found.half_width >= half_width(values)


def test_tasks_without_a_score_are_left_out() -> None:
    values, names = drawn(40, 12, 3)
    more = torch.cat([values, torch.tensor([torch.nan])])
    assert over_classes(more, [*names, frozenset("z")]) == over_classes(values, names)


@pytest.mark.parametrize(("classes", "known"), [(3, False), (12, True)])
def test_a_result_says_what_its_interval_covers(classes: int, known: bool) -> None:
    learner = qs.Prototypical(qs.backbones.MLP(256, (8,)))
    source = qs.episodes(random_classes(classes), 3, 1, 4)
    result = qs.evaluate(learner, source, 30, baselines=False)
    of = result.main.classes
    assert of is not None
    assert (of.count, of.known) == (classes, known)
    text = (
        f"the interval covers other tasks from the same rows of these {classes} classes, not other "
        f"classes: {classes} are too few for that"
    )
    assert (text in str(result)) is not known
    assert ("for other classes (95% CI, 12 classes)" in str(result)) is known
    low, high = np.quantile(result.scores, [0.05, 0.95])
    assert result.main.spread == pytest.approx((low, high))
    assert f"single tasks score {100 * low:.1f}% to {100 * high:.1f}%" in str(result)
    again = qs.Evaluation.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert str(again) == str(result)
    (row,) = result.to_json()["rows"]
    assert row["classes"]["count"] == classes
    assert row["remarks"] == result.main.remarks


def test_the_classes_of_a_task_are_those_that_the_source_drew() -> None:
    classes = random_classes(12)
    source = qs.episodes(classes, 3, 1, 2)
    learner = qs.Prototypical(qs.backbones.MLP(256, (8,)))
    result = qs.evaluate(learner, source, 20, seed=5, baselines=False)
    names = [frozenset(source.names(generator(task_seed(5, i, Stream.TEST)))) for i in range(20)]
    assert result.main.classes == over_classes(result.scores, names)


def test_other_sources_say_nothing_of_classes() -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4, (4,)))
    result = qs.evaluate(learner, clouds(), 5, baselines=False)
    assert result.main.classes is None
    assert "\n" not in str(result)


def test_it_covers_other_classes_where_the_interval_over_tasks_does_not() -> None:
    """benchmarks/class_intervals.py has the full measurement."""
    from class_intervals import coverage

    found = coverage(ways=2, classes=15, tasks=200, tests=60, many=4000)
    assert found["covered, over classes"] > 0.8
    assert found["covered, over tasks"] < 0.6
