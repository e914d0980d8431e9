"""What a comparison says in words and in tables is what its pairs and figures hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparison_samples import comparison, entry, sample_scores, usual, with_shots
from rich.console import Console

from quickstudy.base.words import in_bytes, in_thousands
from quickstudy.evaluation.intervals import Interval
from quickstudy.evaluation.paired import Figures, Pair
from quickstudy.reports.comparison_rows import Score, labels_of, rows_of, versus
from quickstudy.reports.comparison_tables import (
    comparison_table,
    how_tested,
    pairs_table,
    ranking_table,
    shots_table,
)
from quickstudy.reports.comparison_words import answer
from quickstudy.reports.tables import markdown_table
from quickstudy.selection.comparing.comparison import BASELINE, LEARNER, Comparison, Entry

NOTHING = Interval(-math.inf, math.inf)


def pair(first: str, second: str, difference: float, half: float, others: float | None) -> Pair:
    """A pair whose verdict follows from half-widths of its intervals."""
    these = Interval(difference - half, difference + half)
    p_others = math.nan if others is None else 0.001 if others < abs(difference) else 0.5
    return Pair(
        first, second, "%", difference, these,
        None if others is None else Interval(difference - others, difference + others),
        "1 training is too few, 3 are needed" if others is None else "3 trainings and 20 classes",
        0.5, 0.001, 0.001, p_others, 0.005, 0.05, these,
    )  # fmt: skip


def three(*pairs: Pair, means: tuple[float, ...] = (0.9, 0.88, 0.4)) -> Comparison:
    """Two learners and a baseline with these pairs and means."""
    names = ("a", "b", "base")
    scores = {name: [torch.full((4,), mean)] for name, mean in zip(names, means, strict=True)}
    kinds = (LEARNER, LEARNER, BASELINE)
    return Comparison(
        tuple(entry(n, scores[n], k) for n, k in zip(names, kinds, strict=True)),
        pairs, 0.005, "inductive",
        {n: Figures(m, NOTHING, None, "") for n, m in zip(names, means, strict=True)},
        dict(zip(names, (1.0, 2.0, 3.0), strict=True)),
    )  # fmt: skip


CLEAR = pair("a", "base", 0.5, 0.01, 0.02), pair("b", "base", 0.48, 0.01, 0.02)


def test_the_answer_names_the_best_and_both_intervals_above_the_best_baseline() -> None:
    best, above = answer(three(pair("a", "b", 0.02, 0.001, 0.004), *CLEAR))
    assert best == "a is best: accuracy 90.0%."
    assert above == (
        "It is 50.0 points better than the best baseline, base; 95% intervals of the difference: "
        "+49.0 to +51.0 for these classes, +48.0 to +52.0 for other trainings, other classes."
    )


def test_the_answer_names_what_is_equivalent_and_what_is_not_known() -> None:
    alike = answer(three(pair("a", "b", 0.001, 0.001, 0.002), *CLEAR))[0]
    assert alike == "a is best: accuracy 90.0%. Equivalent to it, within 0.5 points: b."
    open_ = answer(three(pair("a", "b", 0.02, 0.001, 0.03), *CLEAR))[0]
    assert open_ == (
        "a has the best score, accuracy 90.0%. Not known whether it is better than b."
    )  # fmt: skip


def test_a_pair_is_read_from_the_side_of_the_better_row() -> None:
    table = three(pair("b", "a", -0.02, 0.001, 0.004), *CLEAR)
    assert answer(table)[0] == "a is best: accuracy 90.0%."
    turned = versus(table, "a", "b")
    assert turned is not None
    assert (turned.verdict, turned.difference) == ("better", 0.02)
    assert (turned.these, turned.others) == (
        Interval(pytest.approx(0.019), pytest.approx(0.021)),
        Interval(pytest.approx(0.016), pytest.approx(0.024)),
    )
    straight = versus(table, "b", "a")
    assert straight is not None
    assert (straight.verdict, straight.difference) == ("worse", -0.02)
    assert versus(table, "a", "nothing") is None


def test_with_one_seed_the_answer_is_about_these_classes() -> None:
    scores = sample_scores({"a": 0.9, "b": 0.8, "chance": 0.2}, trainings=1)
    learners = [entry(name, scores[name]) for name in ("a", "b")]
    best, above = answer(comparison([*learners, entry("chance", scores["chance"], BASELINE)]))
    assert best.startswith("a is best on these classes: accuracy")
    assert above.endswith(
        "for these classes, not known (1 training is too few, 3 are needed) for other trainings, "
        "other classes."
    )
    alone = answer(comparison(learners))
    assert "better than the next, b;" in alone[1]
    assert alone[2] == "There is no baseline beside it."


def test_a_baseline_in_front_is_called_one() -> None:
    table = three(
        pair("a", "b", 0.02, 0.001, 0.004), pair("base", "a", 0.05, 0.01, 0.02),
        pair("base", "b", 0.07, 0.01, 0.02), means=(0.9, 0.88, 0.95),
    )  # fmt: skip
    best, above = answer(table)
    assert best == "base (a baseline) is best: accuracy 95.0%."
    assert above.startswith("The best learner, a, is 5.0 points worse than that baseline;")
    assert "-6.0 to -4.0 for these classes" in above


def test_all_tied_is_no_difference_that_matters() -> None:
    scores = sample_scores({"a": 0.8}, trainings=1)["a"]
    table = comparison([entry(name, scores) for name in "abc"])
    assert answer(table)[0].startswith(
        "No difference that matters on these classes: all are equivalent, within 0.5 points, to a,"
    )
    assert {row["is"] for row in pairs_table(table)} == {"equivalent"}
    assert {row["ties"] for row in pairs_table(table)} == {"100%"}


def test_failed_learners_are_named_and_last() -> None:
    assert answer(usual())[-1] == "1 learner failed: SNAIL; it counts last in the ranks."
    last = ranking_table(usual())[-1]
    assert (last["learner"], last["accuracy"], last["mean rank"]) == ("SNAIL", "failed", "7.00")
    nobody = comparison([Entry("a", "A", LEARNER, failure="x"), Entry("b", "", LEARNER)])
    assert answer(nobody) == ["No learner has a result.", "2 learners failed: A, b; they count "
                              "last in the ranks."]  # fmt: skip
    one = comparison([entry("a", [torch.full((4,), 0.5)]), Entry("b", "B", LEARNER, failure="x")])
    assert answer(one)[0] == "Only a has a result: accuracy 50.0%."


def test_the_ranking_has_the_best_first_with_both_intervals_and_every_cost() -> None:
    table = usual()
    found = ranking_table(table)
    means = [table.figures[e.name].mean for e in table.ranking if not e.failed]
    assert means == sorted(means, reverse=True)
    assert [row["accuracy"] for row in found[:-1]] == [f"{100 * m:.1f}%" for m in means]
    first = found[0]
    figures = table.figures["prototypical"]
    assert first["learner"] == "Prototypical networks"
    assert figures.others is not None
    for name, interval in (
        ("these classes", figures.these), ("other trainings, other classes", figures.others),
    ):  # fmt: skip
        assert first[name] == f"{100 * interval.low:.1f} to {100 * interval.high:.1f}%"
    assert (first["CPU time"], first["wall time"]) == ("1 min 59 s", "1 min 2 s")
    assert (first["parameters"], first["size"]) == ("112k", "448 kB")
    assert found[-2]["wall time"] == "none"  # chance needs no training
    assert markdown_table(found).count("\n") == len(found) + 2


def test_low_scores_first_where_they_are_better() -> None:
    scores = sample_scores({"a": 0.6, "b": 0.3})
    table = comparison([entry(name, of, metric="mse") for name, of in scores.items()], 0.01)
    assert [row["learner"] for row in ranking_table(table)] == ["b", "a"]
    assert answer(table)[0] == f"b is best: mse {table.figures['b'].mean:.3g}."
    assert pairs_table(table)[0]["is"] == "better"
    assert "a difference of 0.01 matters" in how_tested(table)


def test_a_verdict_of_these_trainings_alone_is_said_to_be_one():
    remark = "verdicts are of these trainings and classes alone"
    assert remark in how_tested(three(pair("a", "b", 0.02, 0.01, None)))
    assert remark not in how_tested(three(pair("a", "b", 0.02, 0.01, 0.015)))
    assert remark not in how_tested(three(pair("a", "b", 0.02, 0.03, None)))


def test_undefined_scores_are_last_and_no_number() -> None:
    table = three(*CLEAR, means=(math.nan, 0.88, 0.4))
    rows = rows_of(table)
    assert [row.name for row in rows] == ["b", "base", "a"]
    lines = ranking_table(table)
    assert (lines[2]["accuracy"], lines[2]["these classes"]) == ("–", "not known")
    assert answer(three(means=(math.nan,) * 3))[0] == "The score, accuracy, is undefined for all."
    infinite = three(*CLEAR, means=(math.inf, 0.88, 0.4))
    assert ranking_table(infinite)[0]["accuracy"] == "inf%"


def test_two_entries_of_one_title_are_told_apart_by_name() -> None:
    entries = [Entry("a", "MAML", LEARNER), Entry("b", "MAML", LEARNER), Entry("c", "", LEARNER)]
    assert labels_of(entries) == {"a": "MAML (a)", "b": "MAML (b)", "c": "c"}


def test_every_pair_has_a_row_with_both_intervals() -> None:
    found = pairs_table(usual())
    assert len(found) == 15
    assert found[0]["first"] == "1 Prototypical networks"
    assert (found[0]["is"], found[0]["second"]) == ("not known", "2 R2-D2")
    scores = sample_scores({"a": 0.9, "b": 0.8}, trainings=2)
    (only,) = pairs_table(comparison([entry(name, of) for name, of in scores.items()]))
    assert only["other trainings, other classes"] == (
        "not known: 2 trainings are too few, 3 are needed"
    )


def test_the_terminal_shows_the_answer_and_escapes_names() -> None:
    table = usual()
    named = replace(table, entries=(
        replace(table.entries[0], title="\x1b[2Jbad[red]"),
        *(replace(each, failure="\x1b]0;x\x07 broke") if each.failed else each
          for each in table.entries[1:]),
    ), left_out={"probe": "no pretrained backbone"})  # fmt: skip
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(comparison_table(named, "Glyphs"))
    text = capture.get()
    assert "\x1b" not in text
    assert "\x07" not in text
    for phrase in (
        "Glyphs", "\\x1b[2Jbad[red] has the best score, accuracy 84.1%", "these classes",
        "other trainings, other classes", "failed: SNAIL: \\x1b]0;x\\x07 broke",
        "no probe: no pretrained backbone", "100 test tasks (3f9ac1d27b60)", "3 trainings",
        "inductive",
    ):  # fmt: skip
        assert phrase in text, phrase


def test_scores_over_shots_have_a_column_for_each_number() -> None:
    curves = {each.name: each.over_shots for each in with_shots(usual()).learners[:2]}
    del curves["maml"][10]  # type: ignore[attr-defined]
    found = shots_table(curves)
    assert list(found[0]) == ["learner", "1 shot", "2 shots", "5 shots", "10 shots"]
    assert found[0]["5 shots"] == curves["prototypical"][5].figure
    assert found[1]["10 shots"] == "–"


def test_numbers_in_words() -> None:
    assert [in_bytes(n) for n in (0, 999, 1500, 999_960, 448_000, 2**30)] == [
        "0 B", "999 B", "1.5 kB", "1000 kB", "448 kB", "1.1 GB",
    ]  # fmt: skip
    assert [in_thousands(n) for n in (0, 42, 113_000, 25_600_000)] == ["0", "42", "113k", "25.6M"]
    percent, plain = Score("accuracy", "%", True), Score("mse", "", False)
    assert [percent.points(0.005), percent.points(-0.01), plain.points(-0.0125)] == [
        "0.5 points", "1.0 point", "0.013",
    ]  # fmt: skip
