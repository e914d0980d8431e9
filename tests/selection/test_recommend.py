"""``qs.recommend`` end to end, on data whose answer is known by construction."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import quickstudy as qs
from quickstudy.interfaces.cli import main
from quickstudy.selection.recommending import (
    of_classes,
    of_domains,
    of_functions,
    of_named_tasks,
    of_rows,
)
from quickstudy.selection.recommending import recommend as recommend_module
from quickstudy.selection.recommending.given import Asked, problem_of
from quickstudy.selection.recommending.of_domains import Kept
from quickstudy.selection.recommending.of_rows import Divisions
from quickstudy.selection.recommending.racer import Racer
from quickstudy.selection.recommending.recommend import explain
from quickstudy.selection.recommending.rules import HEADER, RULES, rules_for, table
from quickstudy.selection.recommending.tables import columns_of, labelled_rows, texts_of
from quickstudy.tasks.fixed import fixed
from quickstudy.tasks.numbering import draw

ASKED = Asked(None, None, None, 5, 1, 15, 10, 0, float("inf"), pretend=True)
DOCS = Path(__file__).parents[2] / "docs"


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def class_rows(noise: float) -> qs.LabelledRows:
    """20 classes that differ in 4 columns, beside 4 columns of noise alone."""
    means = torch.cat([gaussian(20, 1, 4), torch.zeros(20, 1, 4)], -1)
    spread = torch.tensor([0.3] * 4 + [noise] * 4)
    rows = means + gaussian(20, 12, 8, seed=1) * spread
    return qs.LabelledRows.from_labels(rows.reshape(-1, 8), torch.arange(20).repeat_interleave(12))


@pytest.fixture(autouse=True)
def few_divisions(monkeypatch):
    monkeypatch.setattr(of_rows, "DIVISIONS", 4)
    monkeypatch.setattr(of_rows, "NETWORK_STEPS", 2)


@pytest.fixture
def few_learners(monkeypatch):
    monkeypatch.setattr(of_classes, "META", ("prototypical",))
    monkeypatch.setattr(of_functions, "OF_REALS", of_functions.OF_REALS[:1])


def test_meta_learning_is_recommended_where_columns_of_noise_can_be_learnt(few_learners):
    """Nearest means are right in 3 of 10 there; classes of other tasks say which columns count."""
    source = qs.episodes(class_rows(4.0), 4, 1, 5)
    found = qs.recommend(source, steps=50, tasks=40)
    assert found.family in ("meta-learning", "pooled")
    assert "gains" in found.why[1]
    by_name = {row.name: row for row in found.rows}
    assert by_name[found.name].final > by_name["nearest_mean"].laps[0][1] + 0.15
    assert found.held_out
    assert found.expected is not None
    assert found.expected.these.low < found.expected.mean < found.expected.these.high
    shots = {each.shots: each for each in found.more_shots}
    assert shots[5].mean > shots[1].mean
    assert shots[20].failure == "20 shots need 21 rows a class; found 12"
    assert {found.name} <= {name for pair in found.pairs for name in (pair.first, pair.second)}
    task = draw(source, 0, 0)
    assert found.learner(task.support, task.spec)(task.query.inputs).shape == (20, 4)
    text = str(found)
    assert f"Use this: {found.use}." in text
    assert "other trainings, other classes" in text
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["use"] == found.use
    assert stored["expected"]["these"] == pytest.approx(
        [found.expected.these.low, found.expected.these.high]
    )


def test_target_only_is_recommended_where_the_inputs_are_right_as_they_are(few_learners):
    """Classes differ in every column alike: nothing can be learnt from other classes."""
    found = qs.recommend(class_rows(0.3), shots=2, ways=3, queries=5, steps=8, tasks=40, seeds=1)
    assert found.family == "target only"
    assert found.use.startswith("Train on your data alone")
    assert found.expected is not None
    assert found.expected.others is None  # 1 training says nothing of others
    assert any("far shorter than usual (steps: " in why for why in found.why)  # 8 steps
    assert "not known" in str(found)


def test_functions(few_learners, monkeypatch):
    monkeypatch.setattr(of_functions, "TASKS_PER_STEP", 4)
    found = qs.recommend(qs.Sinusoids(10, 20), steps=20, tasks=8, seeds=1)
    assert not found.higher_is_better
    assert found.name in ("linear_probe", "kernel")
    rows = {row.name: row for row in found.rows}
    assert rows["probe"].laps[0][1] > rows["kernel"].laps[0][1]  # a line is no sine


def test_tasks_of_a_fixed_source_are_divided():
    tasks = [draw(qs.Sinusoids(5, 5), 0, i) for i in range(20)]
    made = of_functions.problem_of_source(fixed(tasks), 0)
    sources = made.candidates[-1].sources
    train, val, test = sources.train.tasks, sources.validation.tasks, sources.test.tasks
    assert (len(train), len(val), len(test)) == (12, 4, 4)
    first = {float(t.support.inputs[0]) for part in (train, val, test) for t in part}
    assert len(first) == 20  # no task is in two parts


def test_named_tasks_that_are_alike_are_learnt_together(monkeypatch):
    monkeypatch.setattr(of_named_tasks, "TASKS_PER_STEP", 2)
    shared = gaussian(5, 1, seed=3)
    given = {}
    for k in range(10):
        x = gaussian(25, 5, seed=10 + k)
        y = x @ (shared + 0.1 * gaussian(5, 1, seed=30 + k)) + 0.5 * gaussian(25, 1, seed=50 + k)
        given[f"school {k}"] = (x, y, qs.regression())
    found = qs.recommend(qs.tasks.domains(given), steps=2, seeds=1)
    assert found.name == "mean_regularised"
    assert found.metric == "mean mse of 10 tasks"
    assert 0 < found.expected.mean < 1  # of each task's variance


def rows_of(n: int, seed: int, flipped: bool = False) -> qs.Examples:
    x = gaussian(n, 4, seed=seed)
    y = (x @ torch.tensor([1.0, 1.0, 0.0, 0.0]) > 0).long()
    return qs.examples(x, 1 - y if flipped else y)


def test_a_harmful_source_is_noticed(monkeypatch):
    sources = [rows_of(150, 1), rows_of(150, 2, flipped=True)]
    tasks = qs.tasks.transfer(sources, rows_of(300, 3), qs.classification(2), labelled=3)
    monkeypatch.setattr(of_domains, "find_spec", lambda name: None)  # CORAL takes seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = qs.recommend(tasks, steps=1, tasks=10, seeds=1)
    assert [note.split(" harms")[0] for note in found.notes] == ["source 2"]
    rows = {row.name: row for row in found.rows}
    assert rows["pooled without harmful"].laps[0][1] > rows["pooled, linear"].laps[0][1] + 0.1
    assert found.name != "pooled, linear"


def test_support_rows_of_other_groups_are_left_out():
    tasks = qs.tasks.transfer(
        [rows_of(9, 1), rows_of(7, 2)], rows_of(40, 3), qs.classification(2), labelled=3
    )
    kept = draw(Kept(tasks, (0, 2)), 0, 0)
    assert kept.support.groups.bincount().tolist() == [6, 0, 7]
    assert torch.equal(kept.query.inputs, draw(tasks, 0, 0).query.inputs)


def product(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A class that no linear model of the columns tells: the sign of a product."""
    x = gaussian(rows, 3)
    return x.numpy(), np.where((x[:, 0] * x[:, 1] > 0).numpy(), "same", "other")


def test_many_rows_of_a_table_are_learnt_alone():
    x, y = product()
    found = qs.recommend(x, y, steps=1, tasks=20, seeds=1)
    assert found.name in ("svm", "network")
    assert found.family == "target only"
    rows = {row.name: row for row in found.rows}
    assert rows["ridge"].laps[0][1] < 0.7 < rows["svm"].laps[0][1]


def test_a_table_gives_the_rows_of_its_arrays():
    x, y = product()
    frame = pd.DataFrame(x, columns=list("abc")).assign(label=y)[["a", "label", "b", "c"]]
    (rows, spec, names), whole = labelled_rows(x, y), labelled_rows(*columns_of(frame, "label"))
    assert all(map(torch.equal, rows, whole[0]))
    assert (spec, names) == (qs.classification(2), ("other", "same")) == whole[1:]


def test_real_targets_are_regressed():
    x = gaussian(80, 3)
    found = qs.recommend(x, (x[:, 0] - 2 * x[:, 1]).numpy() + 0.25, steps=1, tasks=20, seeds=1)
    assert found.metric == "mse"
    assert found.name in ("ridge", "network", "svm")
    assert found.expected.mean < 0.05


@pytest.mark.parametrize(
    ("y", "real"),
    [
        (np.arange(40) * 3 + 1000, True), (np.arange(40.0) ** 2, True),
        (np.arange(40) - 20.5, True),
        (np.arange(40)[:, None], True), (np.arange(40) ** 2 - 300, True),
        (np.arange(40) % 20 * 7, False), (np.arange(40), False), (np.arange(40.0), False),
        (np.arange(40).astype(np.uint8), False), ((np.arange(40) * 3).astype(str), False),
        (np.arange(40) % 2 == 0, False),
    ],
)  # fmt: skip
def test_whole_numbers_with_gaps_are_numbers(y, real):
    """Such as prices; of few different ones, and of 0 to K - 1, classes are meant."""
    _, spec, names = labelled_rows(gaussian(40, 2), y)
    assert (not names) == real
    assert isinstance(spec.answer, qs.answers.Reals) == real


def test_scores_of_fewer_ways_than_asked_for_are_said(few_learners, monkeypatch):
    """12 classes leave fewer than 5 for validation, whose tasks are easier."""
    rows = qs.LabelledRows.from_labels(gaussian(48, 2), list(range(12)) * 4)
    asked = replace(ASKED, ways=5, shots=1, queries=3)
    note, _ = problem_of(rows, asked).notes
    ways = len(problem_of(rows, asked).candidates[0].sources.validation.classes)
    assert f"the race is of {ways}-way tasks" in note
    assert not problem_of(class_rows(1.0), replace(asked, ways=2)).notes


def test_few_classes_are_divided_so_that_others_are_tested_each_time(few_learners):
    made = problem_of(class_rows(1.0), replace(ASKED, ways=5, shots=1, queries=3))
    assert any("final trainings keeps others out" in note for note in made.notes)
    every = [made.candidates, *made.divisions]
    assert len(every) == 3
    tested: list[str] = []
    for candidates in every:
        assert [each.name for each in candidates] == [each.name for each in every[0]]
        for each in candidates:
            of = each.sources
            parts = [set(part.classes.names) for part in (of.validation, of.test)]
            if isinstance(of.train, qs.tasks.Episodes):
                parts.append(set(of.train.classes.names))
                assert len(set().union(*parts)) == 20
            assert sum(map(len, parts)) == len(set().union(*parts))  # no class is in two parts
        tested += candidates[0].sources.test.classes.names
    assert len(tested) == len(set(tested)) == 15


def test_few_classes_end_to_end(few_learners):
    found = qs.recommend(class_rows(0.3), shots=2, ways=5, queries=5, steps=2, tasks=10)
    assert found.expected.others_over == "3 divisions of the classes, each with its own training"
    text = str(found)
    assert "Beside the other finalists" in text
    assert found.title in text.split("Beside the other finalists")[1].splitlines()[1]


def test_texts_of_arrays_are_texts():
    texts = ["a b", "c"]
    for given in (texts, tuple(texts), np.array(texts), pd.Series(texts), np.array(texts, object)):
        assert texts_of(given) == texts
    for other in ([], [1], ["a", None], np.array([["a"]]), gaussian(3), "a", None):
        assert texts_of(other) is None


def test_tables_of_one_problem_have_one_kind_of_target(monkeypatch):
    """Prices of a small table are no classes where those of a large one are numbers."""
    monkeypatch.setattr(recommend_module, "race", None)
    frames = {
        f"town {k}": pd.DataFrame({"area": range(10 + k), "price": np.arange(10 + k) * 70 + 5 * k})
        for k in range(9)
    }
    assert "targets in standard deviations" in explain(frames, target="price", steps=1, tasks=2)
    tables = problem_of(frames, replace(ASKED, target="price"))
    assert {type(task.spec.answer) for task in tables.candidates[0].sources.validation.tasks} == {
        qs.answers.Reals
    }


def test_no_row_is_in_support_and_query():
    rows, asked = rows_of(40, 1), rows_of(20, 2)
    for source in (
        Divisions(rows, qs.classification(2), 20), Divisions(rows, qs.classification(2), 20, asked)
    ):  # fmt: skip
        task = draw(source, 0, 0)
        assert len(task.support.weights) == 20
        both = torch.cat([task.support.inputs, task.query.inputs])
        assert len(both.unique(dim=0)) == len(both)
    few = draw(Divisions(rows, qs.classification(2), 20, asked, shots=3), 0, 1)
    assert few.support.targets.bincount().tolist() == [3, 3]


@pytest.mark.parametrize(
    ("data", "more", "first"),
    [
        (lambda: qs.LabelledRows.from_labels(gaussian(35, 3), list(range(7)) * 5), {},
         "Meta-learning on them"),
        (lambda: gaussian(12, 3), {"targets": [0, 1, 2] * 4}, "A linear or kernel machine"),
        (lambda: qs.tasks.domains({k: (gaussian(9, 2), gaussian(9, 1), qs.regression())
                                   for k in "abc"}), {}, "Each task alone"),
        (lambda: fixed([draw(qs.Sinusoids(3, 3), 0, i) for i in range(5)]), {},
         "Ridge on learnt features"),
    ],
)  # fmt: skip
def test_too_few_to_race_on_is_answered_by_rules(data, more, first, monkeypatch):
    monkeypatch.setattr(recommend_module, "race", None)  # never called
    found = qs.recommend(data(), **more)
    assert not found.raced
    assert found.expected is None
    assert found.use.startswith(first)
    assert "A race needs at least 8; found" in found.why[0]
    assert found.rules
    json.dumps(found.to_json(), allow_nan=False)


def test_the_page_has_the_table_of_rules():
    page = (DOCS / "how-to-choose.md").read_text()
    assert table() in page
    assert page.count(HEADER) == 1


def test_every_rule_points_to_a_section_of_the_page():
    page = (DOCS / "how-to-choose.md").read_text()
    headings = {
        line.removeprefix("## ").lower().replace(" ", "-").replace(",", "").replace("?", "")
        for line in page.splitlines() if line.startswith("## ")
    }  # fmt: skip
    for rule in RULES:
        if "#" in rule.tables:
            assert rule.tables.split("(#")[1].rstrip(")") in headings, rule.key
    assert [rule.key for rule in rules_for(("texts", "photographs"))] == ["texts", "photographs"]


def test_a_plan_trains_nothing(few_learners, monkeypatch):
    monkeypatch.setattr(recommend_module, "race", None)
    plan = explain(class_rows(1.0), ways=3, queries=5, steps=64, seeds=3, tasks=50)
    assert "Prototypical Networks: 64; 64" in plan
    assert "nearest mean of the inputs: nothing is trained over tasks" in plan
    assert "3 trainings of each that is left, 50 test tasks" in plan
    timed = explain(class_rows(1.0), ways=3, queries=5, minutes=1)
    assert "minutes on this machine" in timed  # what measuring leaves of the one minute


X = gaussian(20, 3)
FRAME = pd.DataFrame(X.numpy(), columns=list("abc"))


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (X, {}, "an array needs targets"),
        (X[:0], {"targets": []}, "needs rows"),
        (X, {"targets": [1] * 20}, "at least 2 classes"),
        (X, {"targets": [1, 2]}, "one row for each other"),
        (X, {"targets": [0, 1] * 10, "minutes": 0}, "minutes must be a positive number"),
        (X, {"targets": [0, 1] * 10, "minutes": float("nan")}, "minutes must be a positive"),
        (X, {"targets": [0, 1] * 10, "minutes": True}, "minutes must be a positive"),
        (X, {"targets": [0, 1] * 10, "minutes": 1, "steps": 1}, "minutes or steps, not both"),
        (X, {"targets": [0, 1] * 10, "steps": 0}, "steps must be"),
        (X, {"targets": [0, 1] * 10, "seeds": 0}, "seeds must be"),
        (X, {"targets": [0, 1] * 10, "matters": 1.5}, "matters must be a share"),
        (X.where(X < 1, torch.nan), {"targets": [0, 1] * 10}, "missing value"),
        (X, {"targets": [0.5, float("nan")] * 10}, "NaN or infinite in y"),
        (X, {"targets": ["a", None] * 10}, "every row needs a class"),
        (FRAME, {}, "name of the column to predict"),
        (FRAME, {"target": "d"}, "unknown"),
        (FRAME[:0], {"target": "c"}, "needs rows"),
        (FRAME[["c"]], {"target": "c"}, "columns to predict from"),
        (FRAME.assign(b="text"), {"target": "c"}, "columns must be numbers; found b"),
        (FRAME.assign(a=FRAME.a.where(FRAME.a > 0)), {"target": "c"}, "missing values in a"),
        (FRAME, {"target": "c", "sources": {"x": FRAME[["a", "c"]]}}, "the same columns"),
        (FRAME, {"target": "c", "sources": {"x": X}}, "must be DataFrames"),
        ({"a": X}, {}, "from names to DataFrames"),
        (X[:, 0], {"targets": [0, 1] * 10}, "a single column is X"),
        (X[:, :0], {"targets": [0, 1] * 10}, "rows of at least one number"),
        (X, {"targets": [0.5, float("inf")] * 10}, "infinite in y"),
        *((class_rows(1.0), {name: 0}, f"{name} must be")
          for name in ("ways", "shots", "queries", "labelled")),
        (X, {"targets": [0, 1] * 10, "matters": "a"}, "matters must be a share"),
        (FRAME.set_axis(["a", "a", "c"], axis=1), {"target": "c"}, "a name of its own; found a"),
        (FRAME.set_axis(["a", "c", "c"], axis=1), {"target": "c"}, "a name of its own; found c"),
        (FRAME, {"targets": [0, 1] * 10}, "targets in a column; found y beside it"),
        (FRAME, {"target": "c", "sources": [FRAME]}, "must be DataFrames"),
        *((X, {"targets": [0, 1] * 10, "sources": sources}, "sources beside an array must be")
          for sources in ({}, [X], {"s": "ab"}, {"s": None}, {"s": (X, None)}, {"s": (X,)})),
        *((X, {"targets": [0, 1] * 10, "sources": {"s": pair}}, "the same columns")
          for pair in ((X[:, :2], [0, 1] * 10), (X, [0, 1]), (X, 1))),
        (qs.Sinusoids(), {"targets": [0, 1]}, "found targets beside it"),
        (qs.Sinusoids(), {"target": "c", "sources": {}}, "found sources, target beside it"),
        ({"a": FRAME}, {"target": "c", "targets": [0, 1]}, "found targets beside it"),
        (None, {}, "needs a source"),
        (3, {}, "needs a source"),
        (Path("/no/such/folder"), {}, "no"),
    ],
)  # fmt: skip
def test_bad_input_has_a_clear_error(data, more, message):
    with pytest.raises((ValueError, OSError), match=message):
        qs.recommend(data, **more)


def test_when_all_fail_the_reasons_are_told(monkeypatch, few_learners):
    def broken(*_, **__):
        raise RuntimeError("out of paper")

    monkeypatch.setattr("quickstudy.selection.recommending.racer.evaluate", broken)
    with pytest.raises(ValueError, match=r"all failed\. nearest_mean: out of paper"):
        qs.recommend(class_rows(1.0), ways=3, queries=5, steps=1, seeds=1)


def test_what_left_the_race_without_a_score_is_said(monkeypatch):
    """Where only one is left, it was not the best of any."""
    monkeypatch.setattr(of_rows.SVM, "adapt", None)
    found = qs.recommend(*product(), steps=1, tasks=4, seeds=1)
    assert any("1 of 5 candidates left the race for a reason" in why for why in found.why)
    assert "svm" not in found.name
    assert "a support vector machine, Gaussian kernel  left the race: " in str(found)


@pytest.mark.parametrize("calls", [3, 6, 8])
def test_one_that_was_killed_goes_on_to_the_same_result(calls, few_learners, monkeypatch, tmp_path):
    """Killed before the scoring of a rung, of the next one, and of a final training."""
    monkeypatch.setattr(of_classes, "META", ("prototypical", "r2d2"))

    def found(**more):
        result = qs.recommend(
            class_rows(1.0), shots=2, ways=3, queries=5, steps=4, tasks=6, seeds=1, **more
        ).to_json()
        return {**result, "settings": None}

    whole, real, left = found(), Racer.scored, iter(range(calls))

    def killed(self, *arguments, **more):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Racer, "scored", killed)
        with pytest.raises(KeyboardInterrupt):
            found(run=tmp_path / "kept")
    assert found(run=tmp_path / "kept") == whole
    assert (
        json.loads((tmp_path / "kept" / "recommendation.json").read_text())["use"] == whole["use"]
    )
    with pytest.raises(ValueError, match=r"holds a recommendation with tasks 6; found 7"):
        qs.recommend(class_rows(1.0), shots=2, ways=3, queries=5, steps=4, tasks=7, seeds=1,
                     run=tmp_path / "kept")  # fmt: skip
    with pytest.raises(FileExistsError, match="holds no recommendation"):
        found(run=tmp_path)


def test_the_command(tmp_path):
    x, y = product(120)
    path = tmp_path / "table.csv"
    pd.DataFrame(x, columns=list("abc")).assign(label=y).to_csv(path, index=False)
    words = ["recommend", str(path), "--target", "label", "--steps", "1", "--seeds", "1"]
    plan = CliRunner().invoke(main, [*words, "--explain"])
    assert plan.exit_code == 0, plan.output
    assert "a support vector machine, Gaussian kernel: nothing is trained" in plan.output
    found = CliRunner().invoke(main, [*words, "--tasks", "10", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["name"] in ("svm", "network")
    for wrong in ([], [str(path), "--data", "glyphs"]):
        refused = CliRunner().invoke(main, ["recommend", *wrong])
        assert refused.exit_code == 1
        assert "give a folder or a table" in refused.stderr
