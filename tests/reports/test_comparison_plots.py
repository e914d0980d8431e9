"""Figures of a comparison show its numbers."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from itertools import combinations

import pytest
from comparison_samples import comparison, entry, sample_scores, usual, with_shots
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quickstudy.evaluation.intervals import Interval
from quickstudy.reports.comparison_costs import COSTS, against_cost, front
from quickstudy.reports.comparison_plots import critical_difference, over_shots, scores
from quickstudy.reports.comparison_rows import Row, Score, rows_of, score_of
from quickstudy.selection.comparing.comparison import BASELINE

PERCENT = Score("accuracy", "%", higher_is_better=True)
TRAINING, ADAPTATION, SIZE, _ = COSTS


def row(number: int, **facts: object) -> Row:
    values: dict[str, object] = {
        "number": number, "name": f"n{number}", "label": f"learner {number}", "baseline": False,
        "mean": 0.9 - 0.01 * number, "these": None, "others": None, "rank": float(number),
        "verdict": "better", "sure_elsewhere": True, "seconds": 60.0, "cpu_seconds": 60.0,
        "adaptation": 0.01, "parameters": 100, "bytes": 400,
    }  # fmt: skip
    return Row(**values | facts)  # type: ignore[arg-type]


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.axes[0].texts}


def ticks(axes: Axes) -> dict[str, float]:
    """The place of each tick of x by its text."""
    labels = [label.get_text() for label in axes.get_xticklabels()]
    return dict(zip(labels, map(float, axes.get_xticks()), strict=True))


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_has_the_points_that_no_other_beats(higher: bool) -> None:
    draw = random.Random(0)
    for _ in range(200):
        points = [(draw.choice([1, 2, 3, 4, math.nan]), draw.choice([0.1, 0.2, 0.3, math.nan]))
                  for _ in range(draw.randrange(12))]  # fmt: skip
        sign = 1 if higher else -1
        expected = {
            i for i, (cost, value) in enumerate(points)
            if not math.isnan(cost + value) and not any(
                c <= cost and sign * v >= sign * value and (c, v) != (cost, value)
                for c, v in points
            )
        }  # fmt: skip
        found = front([c for c, _ in points], [v for _, v in points], higher)
        assert set(found) == expected
        assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_scores_are_drawn_with_both_intervals_where_they_are_known() -> None:
    rows = [
        row(1, these=Interval(0.85, 0.93), others=Interval(0.8, 0.95)),
        row(2, these=Interval(0.84, 0.9), others=Interval(-math.inf, math.inf)),
        row(3, baseline=True, mean=0.2, these=Interval(0.19, 0.21)),
        row(4, mean=math.nan),
    ]
    axes = scores(rows, PERCENT).axes[0]
    spans = [c.get_segments()[0][:, 0].tolist() for c in axes.collections]
    assert spans == [pytest.approx(e) for e in ([80, 95], [85, 93], [84, 90])]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "1  learner 1", "2  learner 2", "3  learner 3",
    ]  # fmt: skip
    heights = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines}
    places = axes.get_yticks()
    assert heights == {places[0]: pytest.approx(89), places[1]: pytest.approx(88)}
    assert places[0] > places[1]  # the best is on top
    assert axes.get_xlim()[0] > 70  # the axis is for the learners,
    assert texts(axes.figure) == {"20.0%"}  # and a baseline far below them is a number
    with pytest.raises(ValueError, match="at least 1 row must have a finite score"):
        scores(rows[3:], PERCENT)


def test_bars_join_the_largest_sets_of_ranks_that_no_test_tells_apart() -> None:
    rows = [row(k, rank=1.0 + 0.7 * k) for k in range(1, 6)]
    same = {(1, 2), (2, 3), (4, 5)}
    p = {
        frozenset((f"n{a}", f"n{b}")): 0.3 if (a, b) in same else 0.01
        for a, b in combinations(range(1, 6), 2)
    }
    axes = critical_difference(rows, p).axes[0]
    joined = [tuple(sorted(line.get_xdata())) for line in axes.lines if line.get_linewidth() == 3]
    expected = [(rows[a - 1].rank, rows[b - 1].rank) for a, b in same]
    assert sorted(joined) == sorted(map(pytest.approx, expected), key=lambda each: each.expected)
    marked = sorted(c.get_offsets()[0, 0] for c in axes.collections)
    assert marked == pytest.approx([each.rank for each in rows])
    assert "1  learner 1 (1.70)" in texts(axes.figure)
    none = critical_difference(rows, {}).axes[0]  # without p-values nothing is told apart
    bars = [line for line in none.lines if line.get_linewidth() == 3]
    assert [len(set(bar.get_xdata())) for bar in bars] == [5]
    with pytest.raises(ValueError, match=r"at least 2 rows with a rank; found 1"):
        critical_difference([rows[0], row(2, rank=math.nan)], p)


def test_without_scikit_posthocs_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(ImportError, match=r"pip install 'quickstudy\[compare\]'"):
        critical_difference([row(1), row(2)], {})


def test_costs_of_nothing_stand_left_of_all_others_under_a_zero() -> None:
    rows = [
        row(1, seconds=100.0), row(2, seconds=300.0), row(3, seconds=20.0),
        row(4, seconds=0.0, baseline=True), row(5, seconds=0.0, baseline=True),
    ]  # fmt: skip
    axes = against_cost(rows, PERCENT, TRAINING).axes[0]
    (line,) = [each for each in axes.lines if each.get_drawstyle() == "steps-post"]
    points = [each for each in axes.lines if each.get_marker() in ("o", "s")]
    drawn = {round(p.get_ydata()[0]): p.get_xdata()[0] for p in points}
    assert drawn == {89: 100, 88: 300, 87: 20, 86: pytest.approx(ticks(axes)["0"])}
    assert 0 < ticks(axes)["0"] < 20
    assert ticks(axes)["1 min"] == 60
    assert axes.get_xlim()[0] < ticks(axes)["0"]
    # 4 is free, 3 is better for 20 s, 1 is best; 2 is worse than 1 and dearer, 5 worse than 4.
    assert line.get_ydata() == pytest.approx([86, 87, 89])
    assert texts(axes.figure) == {"1", "2", "3", "4"}


def test_equal_costs_have_an_axis_with_ticks_and_unknown_ones_no_figure() -> None:
    rows = [row(1), row(2), row(3, adaptation=math.nan)]
    axes = against_cost(rows, PERCENT, ADAPTATION).axes[0]
    assert len(ticks(axes)) >= 2
    assert texts(axes.figure) == {"1", "2"}
    with pytest.raises(ValueError, match="needs 2 rows with a score and a size"):
        against_cost([replace(each, bytes=0) for each in rows], PERCENT, SIZE)
    with pytest.raises(ValueError, match="found 1 row"):
        against_cost([row(1), row(2, mean=math.inf)], PERCENT, SIZE)


def test_numbers_of_points_at_one_place_do_not_cover_one_another() -> None:
    axes = against_cost([row(k, mean=0.9) for k in range(1, 7)], PERCENT, SIZE).axes[0]
    spots = [text.get_position() for text in axes.texts]
    assert len(spots) == 6
    assert min(math.dist(a, b) for a, b in combinations(spots, 2)) > 5


def test_curves_over_shots_have_each_score_with_its_interval() -> None:
    table = with_shots(usual())
    curves = {each.name: each.over_shots for each in table.learners if not each.failed}
    axes = over_shots(curves, score_of(table)).axes[0]
    found = {c.get_label(): c[0] for c in axes.containers}
    assert set(found) == set(curves)
    for name, of in curves.items():
        assert found[name].get_xdata().tolist() == [1, 2, 5, 10]
        assert found[name].get_ydata() == pytest.approx([100 * of[k].mean for k in (1, 2, 5, 10)])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "5", "10"]
    with pytest.raises(ValueError, match="scores at 2 numbers of shots"):
        over_shots({"a": {1: curves["maml"][1]}}, score_of(table))


def test_dollars_in_names_are_no_mathematics() -> None:
    made = sample_scores({"$\\nothing{$": 0.8, "b": 0.7}, tasks=20)
    table = comparison([entry(name, of) for name, of in made.items()])
    rows = rows_of(table)
    for figure in (scores(rows, PERCENT), critical_difference(rows, {})):
        figure.draw_without_rendering()  # matplotlib would raise for \nothing


def test_a_baseline_is_a_square() -> None:
    made = sample_scores({"a": 0.8, "b": 0.79}, tasks=20)
    table = comparison([entry("a", made["a"]), entry("b", made["b"], BASELINE)])
    axes = scores(rows_of(table), PERCENT).axes[0]
    assert {line.get_marker() for line in axes.lines} == {"o", "s"}
