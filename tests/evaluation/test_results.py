"""Results: means, pooled scores, their intervals, and the round trip through JSON."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from quickstudy.answers.boxes import AP50
from quickstudy.answers.classes import Accuracy
from quickstudy.answers.labels import AveragePrecision, RocAuc
from quickstudy.answers.pixels import MeanIoU, PooledMeanIoU
from quickstudy.answers.reals import MeanSquaredError
from quickstudy.core import Score, Statistic
from quickstudy.evaluation import wording
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.results import Evaluation

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "int64", "float16", "bfloat16", "float64")


def right_of(*counts: float, total: float = 10) -> list[Statistic]:
    return [{"right": torch.tensor(right), "total": torch.tensor(total)} for right in counts]


def errors(*values: float) -> list[Statistic]:
    return [{"error": torch.tensor(v), "total": torch.tensor(1.0)} for v in values]


def evaluation(*rows: Result) -> Evaluation:
    tasks = sum(row.tasks for row in rows if row.first)
    return Evaluation(rows, None, 0.01, False, "group", 3, "3f9ac1d27b60", tasks)


def label_pairs(tasks: int, labels: int, queries: int, seed: int = 0) -> list[Statistic]:
    """Predictions on a coarse scale, for ties; some targets unknown, some weights 0."""
    generator = torch.Generator().manual_seed(seed)

    def task() -> Statistic:
        targets = torch.randint(-1, 2, (queries, labels), generator=generator).float()
        predictions = torch.randint(-4, 5, (queries, labels), generator=generator).float()
        return {
            "predictions": predictions + targets,
            "targets": targets.where(targets >= 0, torch.nan),
            "weights": torch.randint(0, 3, (queries,), generator=generator).float(),
        }

    return [task() for _ in range(tasks)]


def counts_of_pixels(tasks: int) -> list[Statistic]:
    both = torch.rand(tasks, 3, generator=torch.Generator().manual_seed(1))
    return [{"intersection": row, "union": row + 0.5} for row in both]


def found_boxes(tasks: int, slots: int = 12) -> list[Statistic]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "confidence": torch.rand(slots, generator=generator),
            "class": torch.randint(0, 2, (slots,), generator=generator),
            "weight": torch.ones(slots),
            "right": torch.rand(slots, generator=generator) < 0.4,
            "boxes": torch.tensor([6.0, 6.0]),
        }
        for _ in range(tasks)
    ]


def test_the_mean_and_its_interval_equal_scipys() -> None:
    row = result_of("", Accuracy(), right_of(9, 8, 10, 7))
    assert row.values.tolist() == pytest.approx([0.9, 0.8, 1.0, 0.7])
    low, high = stats.t.interval(0.95, 3, row.mean, stats.sem(row.values))
    assert row.mean == pytest.approx(0.85)
    assert row.half_width == pytest.approx((high - low) / 2)
    assert (row.unit, row.higher_is_better, row.pooled, row.first) == ("%", True, False, True)


def test_tasks_without_a_score_are_left_out_of_the_mean_and_counted() -> None:
    row = result_of("", Accuracy(), [*right_of(9, 8), *right_of(0, total=0)])
    assert row.values.isnan().tolist() == [False, False, True]
    assert row.mean == pytest.approx(0.85)
    assert row.half_width == result_of("", Accuracy(), right_of(9, 8)).half_width
    assert row.counted == "2 of 3 tasks"
    alone = result_of("", Accuracy(), right_of(9))
    assert (alone.mean, alone.half_width) == (pytest.approx(0.9), math.inf)
    nothing = result_of("", Accuracy(), right_of(0, 0, total=0))
    assert math.isnan(nothing.mean)
    assert nothing.half_width == math.inf


@pytest.mark.parametrize(
    ("score", "statistics"),
    [
        (PooledMeanIoU(), counts_of_pixels(7)),
        (RocAuc(), label_pairs(7, 3, 9)),
        (AveragePrecision(), label_pairs(7, 3, 9)),
        (AP50(), found_boxes(7)),
    ],
    ids=lambda each: each.name if isinstance(each, Score) else "",
)
def test_pooled_values_are_jackknife_pseudo_values(
    score: Score, statistics: list[Statistic]
) -> None:
    row = result_of("", score, statistics)
    exact = [{k: v.double() if v.is_floating_point() else v for k, v in s.items()}
             for s in statistics]  # fmt: skip
    pooled = score.value(score.merge(exact))
    assert row.mean == pytest.approx(float(pooled))
    for i, found in enumerate(row.values.tolist()):
        without = score.value(score.merge(exact[:i] + exact[i + 1 :]))
        assert found == pytest.approx(float(7 * pooled - 6 * without), rel=1e-9)
    assert row.half_width == pytest.approx(
        float(stats.t.ppf(0.975, 6) * row.values.std() / math.sqrt(7)), rel=1e-9
    )


@pytest.mark.parametrize("score", [RocAuc(), AveragePrecision()], ids=lambda each: each.name)
def test_a_label_in_one_task_only_is_left_out_without_that_task(score: Score) -> None:
    statistics = label_pairs(3, 2, 6)
    for each in statistics[1:]:
        each["targets"][:, 1] = torch.nan
    row = result_of("", score, statistics)
    pooled = score.value(score.merge(statistics))
    without = score.value(score.merge(statistics[1:]))
    assert float(row.values[0]) == pytest.approx(float(3 * pooled - 2 * without), rel=1e-5)
    one_kind = [{**each, "targets": torch.zeros_like(each["targets"])} for each in statistics]
    assert math.isnan(result_of("", score, one_kind).mean)


def test_a_pooled_interval_covers_the_mean_in_about_95_percent() -> None:
    covered = []
    for seed in range(200):
        both = torch.rand(40, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        row = result_of("", PooledMeanIoU(),
                        [{"intersection": b, "union": torch.ones(1)} for b in both])  # fmt: skip
        covered.append(abs(row.mean - 0.5) <= row.half_width)
    assert sum(covered) / 200 == pytest.approx(0.95, abs=0.05)


def test_six_hundred_tasks_take_seconds() -> None:
    start = time.process_time()
    result_of("", PooledMeanIoU(), counts_of_pixels(600))
    result_of("", RocAuc(), label_pairs(600, 4, 25))
    assert time.process_time() - start < 10


def test_counts_are_summed_in_float64() -> None:
    many = [{"intersection": torch.tensor([2.0**24]), "union": torch.tensor([2.0**24])}]
    one = [{"intersection": torch.tensor([0.0]), "union": torch.tensor([1.0])}]
    mean = result_of("", PooledMeanIoU(), many + one).mean
    assert mean == 2**24 / (2**24 + 1)


def test_tasks_of_one_kind_have_one_result() -> None:
    accuracy = evaluation(result_of("", Accuracy(), right_of(9, 8, 10, 7)))
    assert str(accuracy) == "85.0% ± 20.5 (95% CI, 4 tasks, inductive)"
    assert (accuracy.metric, accuracy.mean) == ("accuracy", pytest.approx(0.85))
    assert accuracy.scores is accuracy.rows[0].values
    error = evaluation(result_of("", MeanSquaredError(), errors(0.3, 0.32, 0.34, 0.336)))
    assert str(error) == "mse 0.324 ± 0.029 (95% CI, 4 tasks, inductive)"
    seen = counts_of_pixels(9)
    two = evaluation(
        result_of("", MeanIoU(), seen), result_of("", PooledMeanIoU(), seen, first=False)
    )
    assert two.main is two.rows[0]
    assert two.row(score="pooled mean IoU") is two.rows[1]
    assert "\n" not in str(two)


def test_several_kinds_have_a_row_each_and_no_average() -> None:
    rows = (
        result_of("birds", Accuracy(), right_of(9, 8)),
        result_of("waves", MeanSquaredError(), errors(0.3, 0.5, 0.4)),
    )
    several = replace(evaluation(*rows), transductive=True)
    assert str(several).splitlines() == [
        f"birds: accuracy {rows[0].figure} (95% CI, 2 tasks, transductive)",
        f"waves: mse {rows[1].figure} (95% CI, 3 tasks, transductive)",
    ]
    assert several.tasks == 5
    assert several.row("waves") is several.row("waves", "mse") is rows[1]
    for figure in ("main", "metric", "scores", "mean", "half_width"):
        with pytest.raises(ValueError, match=r"no single score; found birds: accuracy, waves: mse"):
            getattr(several, figure)
    with pytest.raises(ValueError, match=r"no row for tasks called 'birds' and score 'mse'; found"):
        several.row("birds", "mse")
    with pytest.raises(ValueError, match="at least 1 task"):
        result_of("", Accuracy(), [])


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=1e-7, equal_nan=True)


def counted_as(dtype: torch.dtype) -> list[Statistic]:
    return [{name: value.to(dtype) for name, value in each.items()} for each in right_of(9, 8)]


@pytest.mark.parametrize(
    "rows",
    [
        *((result_of("", Accuracy(), counted_as(getattr(torch, dtype))),) for dtype in DTYPES),
        (result_of("", Accuracy(), [*right_of(9, 8), *right_of(0, total=0)]),),
        (result_of("", Accuracy(), right_of(9)),),
        (result_of("a", AP50(), found_boxes(4)), result_of("b", RocAuc(), label_pairs(4, 3, 9))),
        (result_of("", MeanSquaredError(), errors(0.3, math.inf)),),
    ],
    ids=(*DTYPES, "a task without a score", "one task", "boxes and labels", "an infinite error"),
)
def test_an_evaluation_survives_strict_json(rows: tuple[Result, ...]) -> None:
    before = replace(evaluation(*rows), calibration_error=0.0123, seconds_per_adaptation=math.nan)
    after = Evaluation.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert str(after) == str(before)
    assert math.isnan(after.seconds_per_adaptation)
    assert after.calibration_error == 0.0123
    assert (after.seed, after.fingerprint, after.tasks) == (3, "3f9ac1d27b60", before.tasks)
    for one, other in zip(before.rows, after.rows, strict=True):
        assert (one.label, one.unit, one.first, one.pooled, one.higher_is_better) == (
            other.label, other.unit, other.first, other.pooled, other.higher_is_better
        )  # fmt: skip
        assert same(one.values, other.values)
        for kept, found in zip(one.statistics, other.statistics, strict=True):
            assert kept.keys() == found.keys()
            assert all(same(kept[name], found[name]) for name in kept)
    found = [value for row in after.to_json()["rows"] for value in row["values"]]
    assert all(v == float(f"{v:.8g}") for v in found if isinstance(v, float))


def test_no_difference_has_no_minus() -> None:
    assert wording.difference(-0.0) == "+0"
    assert wording.difference(-0.0, "%") == "+0.0"
