"""The report of multi-task learning says for every task what judging and relations found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from quickstudy.evaluation.judgement import Judgement, OfTask, Over
from quickstudy.relations.affinity import Affinity
from quickstudy.relations.grouping import best_groups
from quickstudy.reports.multitask_page import (
    MultiTaskFacts,
    judgements_table,
    multitask_markdown,
    multitask_page,
    tasks_table,
)
from quickstudy.reports.multitask_plots import affinity_map, task_gains


def row(name: str, gain: float, p: float = 0.5, undefined: str = "") -> OfTask:
    return OfTask(
        name, "accuracy", "%", True, 0.5 * (1 + gain), 0.02, 0.5, 0.02, 0.5 * gain, 0.01, gain,
        0.02, p, 100, Over.ROWS, undefined, 0.05,
    )  # fmt: skip


def judgement(name: str = "shared") -> Judgement:
    table = (
        row("worse <b>", -0.1, 0.001), row("better", 0.2, 0.001), row("same", 0.01),
        row("none", math.nan, math.nan, "accuracy is undefined"),
    )  # fmt: skip
    mean = replace(row("mean of 3 tasks", math.nan), difference=0.02)
    return Judgement(name, table, 0.037, 0.01, 0.3, (mean,), (4, 4), "inductive", 0, "f00d", 0.05)


MATRIX = Affinity(
    "gradient cosine", ("a", "b", "c", "d"),
    torch.tensor([[0, 0.9, -0.4, 0], [0.9, 0, 0, 0], [-0.4, 0, 0, 0.8], [0, 0, 0.8, 0]]),
)  # fmt: skip


def test_tasks_are_sorted_by_gain_and_those_without_come_last() -> None:
    rows = tasks_table(judgement())
    assert [each["task"] for each in rows] == ["better", "same", "worse <b>", "none"]
    assert [each["verdict"] for each in rows] == [
        "gains", "neither shown", "hurt", "accuracy is undefined",
    ]  # fmt: skip
    assert rows[0]["gain"] == "+20.0% ± 2.0"
    assert rows[3]["gain"] == "–"


def test_the_figure_has_every_gain_in_the_colour_of_its_verdict() -> None:
    axes = task_gains(judgement()).axes[0]
    found = {c.get_label(): c[0].get_xdata() for c in axes.containers}
    assert {k: v.tolist() for k, v in found.items()} == {
        "gains": [20.0], "hurt": [-10.0], "neither shown": [1.0],
    }  # fmt: skip
    assert [t.get_text() for t in axes.get_yticklabels()] == ["better", "same", "worse <b>"]
    heights = {k: c[0].get_ydata().tolist() for k, c in
               ((c.get_label(), c) for c in axes.containers)}  # fmt: skip
    ticks = dict(
        zip((t.get_text() for t in axes.get_yticklabels()), axes.get_yticks(), strict=True)
    )
    assert heights["gains"] == [ticks["better"]]
    assert heights["hurt"] == [ticks["worse <b>"]]
    assert ticks["better"] > ticks["worse <b>"]  # the greatest gain is at the top
    low, high = axes.get_xlim()
    assert low < -10 < 20 < high
    nothing = replace(judgement(), table=(row("none", math.nan),))
    with pytest.raises(ValueError, match="at least 1 task must have a gain"):
        task_gains(nothing)
    many = replace(judgement(), table=tuple(row(f"t{i}", i / 100) for i in range(80)))
    assert task_gains(many).axes[0].get_ylabel() == "80 tasks, by gain"


def test_the_heat_map_has_rows_that_give_in_the_order_of_clusters() -> None:
    axes = affinity_map(MATRIX).axes[0]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c", "d"]
    values = axes.collections[0].get_array().reshape(4, 4)
    assert float(values[0, 2]) == pytest.approx(-0.4)
    assert np.ma.getmaskarray(values).diagonal().all()
    unmeasured = Affinity("pairwise gain", ("a", "b"), torch.full((2, 2), torch.nan))
    assert affinity_map(unmeasured).axes


def test_the_page_shows_learners_tasks_and_relations_with_text_escaped() -> None:
    facts = MultiTaskFacts(
        "Multi", [judgement(), judgement("tuned weights")], [MATRIX], best_groups(MATRIX, 2)
    )
    page = multitask_page(facts)
    assert page == multitask_page(facts)
    assert "worse &lt;b&gt;" in page
    assert "<b>worse" not in page
    assert "1 of 4 tasks gains, but 1 is hurt: train worse &lt;b&gt; alone." in page
    assert "+3.7%" in page
    assert "tuned weights" in page
    assert page.count("<svg") == 2
    assert "Groups to train together (no other choice is better)" in page
    assert "<script" not in page
    with pytest.raises(ValueError, match="needs at least 1 judgement"):
        multitask_page(replace(facts, judgements=[]))


def test_markdown_has_a_row_for_each_learner_and_each_task() -> None:
    text = multitask_markdown([judgement(), replace(judgement("b"), delta_m=0.5, tried=None)])
    lines = text.splitlines()
    assert lines[2].startswith("| b ")  # the greatest Δm first
    assert "not stated" in lines[2]
    assert "4 (single 4)" in lines[3]
    assert sum(line.startswith("| ") for line in lines) == 2 + 2 + 2 + 4
    beside = replace(judgement(), pooled=replace(judgement("pooled"), delta_m=-0.2))
    assert [r["learner"] for r in judgements_table([beside])] == ["shared", "pooled"]
    assert "pooled" in multitask_page(MultiTaskFacts("Multi", [beside]))
    with pytest.raises(ValueError, match="judged on the same tasks; found 2 fingerprints"):
        judgements_table([judgement(), replace(judgement(), fingerprint="0")])
