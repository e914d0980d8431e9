from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from report_samples import evaluation_with, result_with
from rich.console import Console

from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.wording import half_width, score
from quickstudy.reports.tables import evaluation_table, markdown_table, predictions_table
from quickstudy.reports.words import axis, duration, letter, visible


def printed(table: object) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_an_evaluation_is_shown_with_all_its_facts(
    make_evaluation: Callable[..., Evaluation],
) -> None:
    text = printed(evaluation_table(make_evaluation(torch.linspace(0.8, 1.0, 50)), "Squares"))
    for phrase in ("Squares", "90.0% ± 1.6", "95% interval", "inductive", "50", "0.081", "1.32 ms",
                 "group", "seed", "3f9ac1d27b60"):  # fmt: skip
        assert phrase in text, phrase
    assert "–" in printed(evaluation_table(make_evaluation(torch.rand(5), "mse")))


def test_each_kind_of_task_has_a_line() -> None:
    rows = result_with(torch.ones(4), name="birds"), result_with(torch.ones(5), "mse", "waves")
    text = " ".join(printed(evaluation_table(evaluation_with(*rows))).split())
    assert "birds: accuracy 100.0% ± 0.0 (95% interval, 4 tasks)" in text
    assert "waves: mse 1 ± 0 (95% interval, 5 tasks)" in text
    assert "tasks 9 " in text


def test_the_first_score_of_each_kind_is_bold() -> None:
    further = replace(result_with(torch.ones(4), "recall", "birds"), first=False)
    table = evaluation_table(evaluation_with(result_with(torch.ones(4), name="birds"), further))
    styles = [str(getattr(cell, "style", "")) for cell in table.columns[1].cells]
    assert styles[:3] == ["bold", "", ""]


def test_predictions_are_ordered_by_probability() -> None:
    text = printed(
        predictions_table(
            ["a.png", "b.png"], ["cat", "dog", "emu"], [[0.1, 0.7, 0.2], [1, 0, 0]], 2
        )
    )
    line = next(line for line in text.splitlines() if "a.png" in line)
    assert line.split() == ["a.png", "dog", "70.0%", "emu", "20%"]


def test_control_characters_in_names_are_escaped() -> None:
    sets = [["[bold]b[/bold]"], []]
    rows = [[0.9, 0.1], [0.5, 0.5]]
    told = printed(predictions_table(["x", "y"], ["[bold]b[/bold]", "c"], rows, sets=sets))
    assert told.count("[bold]b[/bold]") == 3
    assert "not sure" in told
    text = printed(predictions_table(["\x1b[2Jx.png"], ["[bold]b[/bold]", "c"], [[0.9, 0.1]]))
    assert "\x1b" not in text
    assert "\\x1b[2Jx.png" in text
    assert "[bold]b[/bold]" in text


def test_probabilities_must_match_inputs_and_classes() -> None:
    with pytest.raises(ValueError, match=r"2 inputs and 2 classes .* found 1 row of \[3\]"):
        predictions_table(["a", "b"], ["x", "y"], [[0.1, 0.2, 0.7]])


def test_markdown_table() -> None:
    rows = [{"learner": "A|B", "tasks": 600}, {"learner": "C", "tasks": 20, "note": "two\nlines"}]
    assert markdown_table(rows).splitlines() == [
        "| learner | tasks | note        |",
        "| ------- | ----: | ----------- |",
        "| A\\|B    |   600 | –           |",
        "| C       |    20 | two\\\\nlines |",
    ]
    with pytest.raises(ValueError, match="no rows"):
        markdown_table([])


def test_words() -> None:
    assert [score(0.97123, "%"), score(0.03512)] == ["97.1%", "0.0351"]
    assert [half_width(0.0021, "%"), half_width(0.00123)] == ["0.2", "0.0012"]
    assert [axis("accuracy", "%"), axis("mse", "", better=False), axis("return", "")] == [
        "accuracy (%)", "mse (lower is better)", "return",
    ]  # fmt: skip
    assert [duration(s) for s in (2e-5, 0.00321, 2.5, 75, 3700)] == [
        "20 µs", "3.21 ms", "2.5 s", "1 min 15 s", "1 h 1 min",
    ]  # fmt: skip
    assert [letter(k) for k in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
    assert visible("a\tb\u202ec é 字") == "a\\tb\\u202ec é 字"


def test_tables_need_no_torch() -> None:
    code = "import sys, quickstudy.reports.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
