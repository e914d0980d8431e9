"""Baselines, classes and single tasks in figures, tables and the page; limits and titles."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from report_samples import evaluation_with, result_with, training_log
from rich.console import Console

from quickstudy.evaluation.compared import Compared
from quickstudy.evaluation.over_classes import OverClasses
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.reports import plots
from quickstudy.reports.insight_plots import step_by_step
from quickstudy.reports.insights import Adaptation
from quickstudy.reports.limits import limits_of
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.tables import evaluation_table
from quickstudy.reports.titles import title_of

CHANCE = Compared("chance", "%", torch.full((9,), 1 / 3), 1 / 3, 0.001, 0.004, True)


def at_chance() -> Result:
    values = 0.334 + 0.01 * torch.linspace(-1, 1, 9)
    return replace(result_with(values), baselines=(CHANCE,), classes=OverClasses(3, float("inf")))


def evaluation() -> Evaluation:
    return replace(evaluation_with(at_chance()), left_out={"untrained learner": "it has <no> way"})


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_says_that_a_result_is_no_better_than_chance() -> None:
    html = page(RunFacts("x", evaluation(), training_log()))
    text = text_of(html)
    assert "The learner is no better than chance, 33.3%." in text
    assert "no better ; the interval of the result contains it +0.1 ± 0.4" in text
    assert "not other classes: 3 are too few for that." in text
    assert "Single tasks score 32.5% to 34.3% (the middle 90% of them)." in text
    assert "Not computed: untrained learner, because it has &lt;no&gt; way." in text
    assert 'class="score doubtful"' in html
    better = replace(CHANCE, gain=0.1)
    html = page(RunFacts("x", evaluation_with(replace(at_chance(), baselines=(better,)))))
    assert "doubtful" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "The learner is" not in text_of(html)


def test_the_table_of_the_terminal_says_it_too() -> None:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation()))
    text = capture.get()
    for remark in (*at_chance().remarks, "not computed: it has <no> way"):
        assert remark in text


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([33.1, 33.5], "%", (20, 40)),
        ([20, 98.2], "%", (10, 100)),
        ([0, 0], "%", (0, 20)),
        ([100, 100], "%", (80, 100)),
        ([float("nan")], "%", (0, 20)),
        ([1.0986, 1.0987], "", (1.04371, 1.15359)),
        ([1, 2], "", (0.95, 2.05)),
        ([0, 0], "", (-1, 1)),
        ([], "", (-1, 1)),
    ],
)
def test_noise_does_not_fill_an_axis(
    values: list[float], unit: str, expected: tuple[float, float]
) -> None:
    assert limits_of(values, unit) == pytest.approx(expected, abs=1e-4)


def test_curves_show_chance_on_an_axis_of_twenty_points() -> None:
    rows = [{"step": s, "loss": 1.0986 + 1e-5 * s, "score": 0.331 + 1e-4 * s} for s in (10, 20, 30)]
    above, below = plots.learning_curves(rows, "accuracy", "%", {"chance": 1 / 3}).axes
    assert above.get_ylim() == (20, 40)
    line = next(line for line in above.lines if line.get_label() == "chance")
    assert list(line.get_ydata()) == pytest.approx([100 / 3] * 2)
    low, high = below.get_ylim()
    assert high - low > 0.1


def test_a_single_logged_step_has_its_values_written_and_an_axis_from_zero() -> None:
    rows = [{"step": 30, "loss": 1.0987, "score": 0.3331}]
    above, below = plots.learning_curves(rows, "accuracy", "%").axes
    assert [text.get_text() for text in above.texts] == ["33.31"]
    assert [text.get_text() for text in below.texts] == ["1.099"]
    assert below.get_xlim() == (0, 39)
    for axes, value in ((above, 33.31), (below, 1.0987)):
        (line,) = axes.lines
        assert line.get_marker() == "o"
        assert axes.get_ylim()[0] < value < axes.get_ylim()[1]


def test_a_log_without_a_finite_loss_says_so() -> None:
    rows = [{"step": step, "loss": float("nan")} for step in (20, 40)]
    (text,) = plots.learning_curves(rows).axes[1].texts
    assert text.get_text() == "no finite loss was logged"


def test_the_histogram_shows_the_baselines() -> None:
    axes = plots.score_distribution(at_chance()).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1:] == ["chance 33.3%"]
    assert axes.get_xlim() == (20, 40)


def test_the_axes_of_inner_steps_do_not_magnify_noise() -> None:
    steps, values, none = np.arange(3), np.array([1.28, 1.29, 1.295]), np.empty((3, 0))
    adapted = Adaptation(steps, values, values, "mse", "", (), none, none)
    for axes in step_by_step(adapted).axes:
        low, high = axes.get_ylim()
        assert high - low >= 0.1 * 1.28


def test_the_axis_of_accuracies_ends_at_100_percent() -> None:
    axes = plots.score_distribution(result_with(torch.tensor([2 / 3, 2 / 3, 1.0]))).axes[0]
    assert max(axes.get_xticks()) == 100
    assert axes.get_xlim()[1] >= max(bar.get_x() + bar.get_width() for bar in axes.patches[:2])


def test_a_title_says_what_was_learnt() -> None:
    assert title_of("MAML", "Glyphs") == "MAML on Glyphs"
    assert title_of("MAML", "x", list("abcdef")) == "MAML: a, b, c and 3 more classes"
    assert title_of("MAML", "x", list("abc")) == "MAML: a, b and c"
    title = title_of("MAML", "x", ["x" * 40, "y\n\x1b", "c", "d"])
    assert title == f"MAML: {'x' * 29}…, y\\n\\x1b, c and 1 more class"
