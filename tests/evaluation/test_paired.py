"""Pairs of learners: intervals, tests and verdicts, against closed forms and other packages."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import quickstudy as qs
from made_up import clouds, random_classes
from quickstudy.answers.labels import RocAuc
from quickstudy.evaluation.intervals import FEW_TASKS, Interval, of_means
from quickstudy.evaluation.looks import Look, looks, undecided
from quickstudy.evaluation.paired import (
    Pair,
    figures,
    mean_ranks,
    pairs,
    wilcoxon_p,
)
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.same_tasks import same_evaluations

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


def made(values: Sequence[float] | np.ndarray, **other: Any) -> Result:
    found = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    fields: dict[str, Any] = {"unit": "%", "higher_is_better": True, "pooled": False} | other
    return Result(
        name=fields.pop("name", ""), score=fields.pop("score", "accuracy"), first=True,
        statistics=(), values=found, mean=float(found.nanmean()), half_width=math.nan, **fields,
    )  # fmt: skip


def pair_of(
    difference: float,
    interval: tuple[float, float],
    p: float = 0.001,
    others: tuple[float, float] | None = None,
    p_others: float = math.nan,
) -> Pair:
    """A pair whose margin is 0.5 points."""
    return Pair(
        "a", "b", "%", difference, Interval(*interval), others and Interval(*others), "", 0.0, p, p,
        p_others, 0.005, 0.05, Interval(*interval),
    )  # fmt: skip


# Intervals


def bca(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Efron's equations, written anew: bias z0 from resamples, acceleration from the jackknife."""
    rng, n = np.random.default_rng(seed), len(values)
    means = np.concatenate([rng.choice(values, (500, n)).mean(1) for _ in range(50)])
    mean = values.mean()
    z0 = stats.norm.ppf(((means < mean).mean() + (means <= mean).mean()) / 2)
    away = mean - (values.sum() - values) / (n - 1)
    a = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(z0 + z / (1 - a * z)))
    return float(low), float(high)


@pytest.mark.parametrize("tasks", [50, 200])
def test_intervals_are_efrons(tasks: int) -> None:
    """Both are resampled, ours 4,000 times, so that an end of it has a deviation of about 0.06
    standard errors of the mean."""
    values = np.random.default_rng(tasks).lognormal(size=(2, tasks))
    for row, (found,) in zip(values, of_means(values, 0), strict=True):
        error = row.std() / math.sqrt(tasks)
        assert (found.low, found.high) == pytest.approx(bca(row, 1), abs=0.25 * error)
        assert found.high - row.mean() > 1.05 * (row.mean() - found.low), "skewed as the values are"


def test_every_row_has_the_interval_that_it_has_alone() -> None:
    values = np.random.default_rng(0).normal(size=(3, 60))
    together = of_means(values, 5, (0.05, 0.01))
    for row, found in zip(values, together, strict=True):
        (alone,) = of_means(row[None], 5, (0.05, 0.01))
        for one, other in zip(found, alone, strict=True):
            assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9)
    for wide, wider in together:
        assert wider.low < wide.low
        assert wide.high < wider.high


def test_equal_differences_have_no_width_and_few_tasks_have_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=FEW_TASKS - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of_means(np.full((2, 60), 0.25), 0) == 2 * [[Interval(0.25, 0.25)]]
        ((found,),) = of_means(values[None], 0)
    expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


# Tests


def test_wilcoxon_ranks_zeros_and_splits_their_ranks() -> None:
    """The normal approximation, written anew, with three of five exact ties."""
    rng = np.random.default_rng(0)
    differences = np.where(rng.random(120) < 0.6, 0, rng.integers(-3, 5, 120)) / 75
    ranks = stats.rankdata(np.abs(differences))
    positive = ranks[differences > 0].sum() + ranks[differences == 0].sum() / 2
    _, ties = np.unique(ranks, return_counts=True)
    n = len(differences)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    z = (positive - n * (n + 1) / 4) / math.sqrt(variance)
    assert wilcoxon_p(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


def test_few_differences_are_no_proof() -> None:
    assert wilcoxon_p(np.zeros(50)) == 1.0
    assert wilcoxon_p(np.full(5, 0.25)) == pytest.approx(2 / 2**5), "the exact test by signs"
    for changed in range(3, 8):
        for zeros in range(3):
            p = wilcoxon_p(np.concatenate([np.arange(1, changed + 1), np.zeros(zeros)]))
            assert p >= 2 / 2**changed * (1 - 1e-9)


def test_p_values_are_adjusted_as_by_statsmodels() -> None:
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    rng = np.random.default_rng(1)
    results = {f"{i}": [made(rng.normal(0.02 * i, 0.1, 60)) for _ in range(3)] for i in range(5)}
    found = pairs(results, 0.005)
    assert len(found) == 10
    adjusted = multipletests([pair.p for pair in found], method="holm")[1]
    assert [pair.p_holm for pair in found] == pytest.approx(list(adjusted))
    assert all(pair.p_others >= 0 for pair in found)
    assert [(pair.first, pair.second) for pair in found[:2]] == [("0", "1"), ("0", "2")]


# Pairs


def test_a_pair_is_of_differences_averaged_over_trainings() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 40)), rng.random((3, 40))
    (pair,) = pairs({"a": [made(v) for v in first], "b": [made(v) for v in second]}, 0.005, 3)
    differences = first.mean(0) - second.mean(0)
    assert pair.difference == pytest.approx(differences.mean())
    ((expected,),) = of_means(differences[None], 3)
    assert (pair.these.low, pair.these.high) == pytest.approx((expected.low, expected.high))
    assert pair.p == pytest.approx(stats.wilcoxon(differences, zero_method="zsplit").pvalue)
    assert pair.others is None
    assert "2 trainings are too few" in pair.others_over


def test_lower_errors_are_better() -> None:
    rng = np.random.default_rng(0)
    error = rng.random(50)
    fields = {"higher_is_better": False, "unit": "", "score": "mse"}
    results = {
        "a": [made(error, **fields)],
        "b": [made(error + 0.1 + 0.01 * rng.random(50), **fields)],
    }
    (pair,) = pairs(results, 0.01)
    assert pair.difference > 0.1
    assert pair.verdict == "better"
    (pair,) = pairs(dict(reversed(results.items())), 0.01)
    assert (pair.first, pair.verdict) == ("b", "worse")
    assert mean_ranks(results) == {"a": 1.0, "b": 2.0}


def test_ties_stay_ties_after_means_over_trainings() -> None:
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in the last bit."""
    shares = np.array([0.1, 0.2, 0.3])
    first = [made(np.full(60, share)) for share in shares]
    second = [made(np.full(60, share)) for share in shares[::-1]]
    assert shares.sum() != shares[::-1].sum()
    (pair,) = pairs({"a": first, "b": second}, 0.005)
    assert (pair.ties, pair.p, pair.here) == (1.0, 1.0, "equivalent")
    few = {name: [made(each.values[:49]) for each in of] for name, of in
           (("a", first), ("b", second))}  # fmt: skip
    (pair,) = pairs(few, 0.005)
    assert (pair.ties, pair.these, pair.here) == (1.0, Interval(0, 0), "not known")
    assert mean_ranks({"a": first, "b": second}) == {"a": 1.5, "b": 1.5}


def test_pooled_scores_are_compared_by_pseudo_values_around_the_pooled_difference() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (30, 12))

    def result(apart: float) -> Result:
        return result_of("", RocAuc(), [
            {"predictions": torch.from_numpy(apart * t + rng.normal(size=12))[:, None],
             "targets": torch.from_numpy(t)[:, None].double(), "weights": torch.ones(12)}
            for t in targets
        ])  # fmt: skip

    first, second = result(2.0), result(0.5)
    (pair,) = pairs({"a": [first], "b": [second]}, 0.005)
    assert pair.difference == pytest.approx(first.mean - second.mean)
    assert pair.verdict == "better"
    error = float((first.values - second.values).std()) / math.sqrt(30)
    middle = (pair.these.low + pair.these.high) / 2
    assert middle == pytest.approx(pair.difference, abs=0.3 * error)
    assert pair.these.high - pair.these.low == pytest.approx(2 * 2.045 * error, rel=0.15)


def test_mean_ranks_share_ties() -> None:
    results = {
        "a": [made([0.5, 0.9, 0.1])],
        "b": [made([0.5, 0.8, 0.3])],
        "c": [made([0.5, 0.7, 0.3])],
    }
    assert mean_ranks(results) == pytest.approx(
        {"a": 2.0, "b": (2 + 2 + 1.5) / 3, "c": (2 + 3 + 1.5) / 3}
    )


def test_figures_of_one_learner() -> None:
    values = np.random.default_rng(0).random((4, 50))
    found = figures([made(each) for each in values], seed=2)
    assert found.mean == pytest.approx(values.mean())
    assert [[found.these]] == of_means(values.mean(0)[None], 2)
    assert found.others_over == "4 trainings and 50 tasks, whose classes have no names"


def test_intervals_of_shares_end_at_0_and_1() -> None:
    """Of three trainings only one learnt, so Student's t would go from below 0 to above 1."""
    values = np.full((3, 50), 0.2) + 0.01 * np.random.default_rng(0).normal(size=(3, 50))
    values[0] += 0.7
    found = figures([made(each) for each in values])
    assert (found.others.low, found.others.high) == (0, 1)
    free = figures([made(each, unit="") for each in values])
    assert free.others.low < 0
    assert free.others.high > 1
    assert free.these == found.these


def test_a_pair_survives_json() -> None:
    rng = np.random.default_rng(0)
    for number in (1, 3):
        results = {n: [made(rng.random(30)) for _ in range(number)] for n in "ab"}
        (pair,) = pairs(results, 0.005)
        again = Pair.from_json(json.loads(json.dumps(pair.to_json(), allow_nan=False)))
        assert again.to_json() == pair.to_json()
        assert (again.verdict, again.others_over) == (pair.verdict, pair.others_over)


# Verdicts


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        (pair_of(0.01, (0.004, 0.016)), "better"),
        (pair_of(-0.01, (-0.016, -0.004)), "worse"),
        (pair_of(0.01, (0.004, 0.016), p=0.06), "not known"),
        (pair_of(0.01, (-0.001, 0.02)), "not known"),
        (pair_of(0.0028, (0.001, 0.0046), p=6e-5), "equivalent"),
        (pair_of(0.0045, (0.001, 0.008)), "not known"),
        (pair_of(0.0, (-0.005, 0.005), p=1.0), "equivalent"),
        (pair_of(0.0, (-0.02, 0.02), p=1.0), "not known"),
    ],
)  # fmt: skip
def test_verdicts_need_significance_and_what_matters(pair: Pair, verdict: str) -> None:
    assert (pair.here, pair.verdict) == (verdict, verdict)


def test_verdicts_must_hold_for_other_trainings_where_these_are_known() -> None:
    better = pair_of(0.01, (0.004, 0.016), others=(0.002, 0.018), p_others=0.01)
    assert better.verdict == "better"
    for doubted in (
        replace(better, p_others=0.2),
        replace(better, others=Interval(-0.01, 0.03)),
    ):
        assert (doubted.here, doubted.verdict) == ("better", "not known")
    alike = pair_of(0.0, (-0.003, 0.003), 1.0, (-0.004, 0.004), 1.0)
    assert alike.verdict == "equivalent"
    wide = replace(alike, others=Interval(-0.02, 0.02))
    assert (wide.here, wide.verdict) == ("equivalent", "not known")
    assert undecided([better, alike, wide]) == ()


def test_an_early_look_needs_more() -> None:
    pair = pair_of(0.01, (0.004, 0.016), p=0.02)
    assert replace(pair, level=0.01).verdict == "not known"
    assert undecided([pair, replace(pair, level=0.01)]) == (replace(pair, level=0.01),)


@pytest.mark.parametrize("tasks", [2, 30, 99, 100, 200, 600, 601, 10_000])
def test_looks_double_the_tasks_and_share_one_level(tasks: int) -> None:
    found = looks(tasks)
    assert found[-1].tasks == tasks
    assert sum(look.level for look in found) == pytest.approx(0.05)
    for before, after in pairwise(found):
        assert before.tasks == after.tasks // 2
        assert before.tasks >= 50
        assert before.level < after.level or after != found[-1]
    if tasks == 600:
        assert [look.tasks for look in found] == [75, 150, 300, 600]
    with pytest.raises(ValueError, match="at least 2"):
        looks(1)


# Refusals


def test_what_cannot_be_paired_is_refused() -> None:
    good = made(np.random.default_rng(0).random(20))
    bad: dict[str, tuple[dict[str, list[Result]], str]] = {
        "one": ({"a": [good]}, "at least 2 learners; found 1"),
        "none": ({"a": [good], "b": []}, "found none of b"),
        "score": ({"a": [good], "b": [replace(good, score="ROC-AUC")]}, "one score"),
        "name": ({"a": [good], "b": [replace(good, name="other")]}, "one score; .*other: accuracy"),
        "unit": ({"a": [good], "b": [replace(good, unit="")]}, "one unit; found '%' for a and ''"),
        "tasks": ({"a": [good], "b": [made([0.5] * 19)]}, "number of tasks; found 20 for a and 19"),
        "few": ({"a": [made([0.5])], "b": [made([0.6])]}, "at least 2 tasks; found 1 task"),
        "nan": ({"a": [good], "b": [good, made([0.5] * 7 + [math.nan] + [0.5] * 12)]},
                "found nan for b on task 7"),
        "infinite": ({"a": [made([math.inf] + [0.5] * 19)], "b": [good]},
                     "found inf for a on task 0"),
    }  # fmt: skip
    for results, message in bad.values():
        with pytest.raises(ValueError, match=message):
            pairs(results, 0.005)
    for matters in (-0.1, math.nan, math.inf, "0.5"):
        with pytest.raises(ValueError, match="matters must be a number of 0 or more"):
            pairs({"a": [good], "b": [good]}, matters)  # type: ignore[arg-type]


def test_evaluations_of_other_tasks_or_protocols_are_refused() -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4, (4,)))
    one, other = (qs.evaluate(learner, clouds(), 5, seed=s, baselines=False) for s in (0, 1))
    same_evaluations("compare", {"a": [one, one], "b": [one]})
    with pytest.raises(ValueError, match=f"fingerprint .* for a and '{other.fingerprint}' for b"):
        same_evaluations("compare", {"a": [one], "b": [one, other]})
    with pytest.raises(ValueError, match=r"found a inductive and b transductive\. Make two"):
        same_evaluations("compare", {"a": [one], "b": [replace(one, transductive=True)]})


def test_tasks_of_other_classes_are_refused() -> None:
    learner, classes = qs.Prototypical(qs.backbones.MLP(256, (4,))), random_classes(12)
    one, other = (
        qs.evaluate(learner, qs.episodes(classes, 3, 1, 2), 20, seed=s, baselines=False).main
        for s in (0, 1)
    )
    with pytest.raises(ValueError, match="tasks of other classes for a than for b"):
        pairs({"a": [one], "b": [other]}, 0.005)


def test_evaluations_that_were_edited_are_refused() -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4, (4,)))
    text = json.dumps(qs.evaluate(learner, clouds(), 5, baselines=False).to_json())
    edited = json.loads(text)
    edited["rows"][0]["mean"] += 0.01
    with pytest.raises(ValueError, match="the mean must be that of the tasks' scores"):
        qs.Evaluation.from_json(edited)
    qs.Evaluation.from_json(json.loads(text))


# Simulations; benchmarks/verdicts.py has the full ones.


def test_verdicts_on_copies_of_one_learner_are_seldom_false(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """50 comparisons of 4 copies, half of the tasks tied: 2.5 false ones expected at most, and 9 or
    more have a chance of 1 in 1,000. Without Holm there would be about 10."""
    from verdicts import as_results, draw_scores, is_difference

    monkeypatch.setattr("quickstudy.evaluation.intervals.RESAMPLES", 500)
    adjusted = unadjusted = 0
    for seed in range(50):
        scores = draw_scores(np.random.default_rng(seed), 4, 1, 60, ties=0.5)
        found = [replace(pair, matters=0.0) for pair in pairs(as_results(scores), 0.005, seed)]
        adjusted += any(is_difference(pair.here) for pair in found)
        unadjusted += any(is_difference(replace(pair, p_holm=pair.p).here) for pair in found)
    assert adjusted < 9
    assert adjusted < unadjusted


def test_another_training_of_one_learner_is_not_called_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its tasks alone it would be, in most of 30 comparisons; 7 or more of the others have a
    chance of 1 in 1,000."""
    from verdicts import as_results, draw_scores, is_difference

    monkeypatch.setattr("quickstudy.evaluation.intervals.RESAMPLES", 500)
    by_tasks = found = 0
    for seed in range(30):
        scores = draw_scores(np.random.default_rng(seed), 2, 3, 150, trained=0.03)
        (pair,) = pairs(as_results(scores), 0.005, seed)
        by_tasks += is_difference(pair.here)
        found += is_difference(pair.verdict)
    assert by_tasks > 15
    assert found < 7


def test_pairing_needs_far_fewer_tasks() -> None:
    """Var(a - b) = Var a + Var b - 2 Cov: here tasks differ by 10 points, and learners by 4."""
    rng = np.random.default_rng(0)
    tasks = rng.normal(0.8, 0.1, 400)
    first, second = (tasks + rng.normal(0, 0.04, 400) for _ in range(2))
    (pair,) = pairs({"a": [made(first)], "b": [made(second)]}, 0.005)
    width = (pair.these.high - pair.these.low) / 2
    apart = 1.96 * math.sqrt((first.var() + second.var()) / 400)
    assert (apart / width) ** 2 == pytest.approx((0.1**2 + 0.04**2) / 0.04**2, rel=0.25)


def test_the_last_look_is_rarer_than_the_first() -> None:
    assert looks(400) == (
        Look(50, pytest.approx(0.01)), Look(100, pytest.approx(0.01)),
        Look(200, pytest.approx(0.01)), Look(400, pytest.approx(0.02)),
    )  # fmt: skip
