"""Named tasks: making them, splitting and standardising them, and drawing from them."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.base.trees import leaves
from quickstudy.datasets.domains import Domains
from quickstudy.tasks import NamedTasks, columns, domains, stacks
from quickstudy.tasks.numbering import draw_stacks, task_seed


def numbered(n: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor, qs.TaskSpec]:
    """Rows whose input and target are their number from ``first``."""
    numbers = torch.arange(first, first + n).float()[:, None]
    return numbers, 2 * numbers, qs.regression()


def three() -> NamedTasks:
    return domains({"a": numbered(40), "b": numbered(12, 100), "c": numbered(8, 200)})


def values(rows: qs.Examples) -> list[int]:
    return rows.inputs.flatten().int().tolist()


def test_each_task_has_its_rows_and_a_spec_of_its_name():
    tasks = three()
    assert list(tasks) == ["a", "b", "c"]
    assert tasks.counts == {"a": 40, "b": 12, "c": 8}
    assert values(tasks["b"]) == list(range(100, 112))
    assert {name: spec.name for name, spec in tasks.specs.items()} == {n: n for n in "abc"}
    with pytest.raises(ValueError, match="'d' is unknown"):
        tasks["d"]


def test_answers_may_differ_and_outputs_say_how_wide_each_is():
    inputs = torch.rand(12, 3)
    tasks = domains({
        "kind": (inputs, torch.arange(12) % 3, qs.classification(3)),
        "size": (inputs, torch.rand(12, 2), qs.regression(2)),
        "tags": (inputs, torch.randint(2, (12, 4)), qs.multilabel(4)),
    })  # fmt: skip
    assert tasks.outputs == {"kind": 3, "size": 2, "tags": 4}
    assert tasks.rows.tables() == [["kind", "size", "tags"]]


def test_tasks_about_the_same_object_share_its_inputs_also_where_these_are_converted():
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    tasks = domains({
        "shape": (pixels, [0, 1] * 3, qs.classification(2)),
        "size": (pixels, np.arange(6.0)[:, None], qs.regression()),
        "other": (pixels.copy(), [0, 1] * 3, qs.classification(2)),
    })  # fmt: skip
    assert tasks.rows.tables() == [["shape", "size"], ["other"]]


def test_columns_keep_only_the_rows_known_in_each():
    inputs = torch.arange(6.0)[:, None]
    nan = torch.nan
    table = torch.tensor(
        [[1, 0.5], [nan, 1.5], [0, nan], [-1, nan], [1, 2.5], [0, -1]]
    )  # in the column of reals -1 is a number
    tasks = columns(inputs, table, ["yes", "real"])
    assert values(tasks["yes"]) == [0, 2, 4, 5]
    assert tasks["yes"].targets.flatten().tolist() == [1, 0, 1, 0]
    assert values(tasks["real"]) == [0, 1, 4, 5]
    assert tasks["real"].targets.flatten().tolist() == [0.5, 1.5, 2.5, -1]
    assert tasks.specs["yes"].answer == qs.answers.Labels(1)
    assert tasks.specs["real"].answer == qs.answers.Reals(1)
    ids = columns(inputs, {"kind": torch.tensor([0, 2, -1, 1, 2, 0]), "yes": table[:, 0]})
    assert ids.specs["kind"].answer == qs.answers.Classes(3)
    assert values(ids["kind"]) == [0, 1, 3, 4, 5]


def test_a_row_of_a_table_is_on_one_side_of_a_split_in_all_its_columns():
    table = torch.randint(2, (60, 5), generator=torch.Generator().manual_seed(0)).float()
    table[torch.rand(60, 5, generator=torch.Generator().manual_seed(1)) < 0.4] = torch.nan
    train, test = columns(torch.arange(60.0)[:, None], table).split_rows(0.7, seed=3)
    seen = {value for rows in train.values() for value in values(rows)}
    asked = {value for rows in test.values() for value in values(rows)}
    assert not seen & asked
    assert (len(seen), len(asked)) == (42, 18)


def test_split_rows_divides_each_place_by_the_share():
    tasks = three()
    train, test = tasks.split_rows(0.75, seed=5)
    assert train.counts == {"a": 30, "b": 9, "c": 6}
    for name in tasks:
        assert sorted(values(train[name]) + values(test[name])) == values(tasks[name])
    again, _ = tasks.split_rows(0.75, seed=5)
    other, _ = tasks.split_rows(0.75, seed=6)
    assert values(again["a"]) == values(train["a"])
    assert values(other["a"]) != values(train["a"])
    val, test2 = test.split_rows(0.5)  # parts can be split again
    assert sorted(values(val["a"]) + values(test2["a"])) == sorted(values(test["a"]))


def test_split_groups_keeps_a_group_in_one_part_of_every_task():
    x, y, spec = numbered(40)
    rows = qs.examples(x, y, groups=torch.arange(40) % 10)
    tasks = domains({"a": (rows, spec), "b": (rows._replace(inputs=x + 100), spec)})
    train, test = tasks.split_groups(0.7)
    kept = {int(g) for each in train.values() for g in each.groups}
    rest = {int(g) for each in test.values() for g in each.groups}
    assert not kept & rest
    assert len(kept) == 7
    assert train.counts == {"a": 28, "b": 28}


def test_split_tasks_holds_out_tasks_by_number_or_name():
    tasks = three()
    known, new = tasks.split_tasks(["b"])
    assert (list(known), list(new)) == (["a", "c"], ["b"])
    known, new = tasks.split_tasks(2, seed=1)
    assert len(new) == 2
    assert set(known) | set(new) == {"a", "b", "c"}
    for wrong in (0, 3, []):
        with pytest.raises(ValueError, match="at least 1 task must be held out"):
            tasks.split_tasks(wrong)


def test_standardised_targets_have_mean_0_and_variance_1_and_can_be_undone():
    train, test = three().split_rows(0.5)
    scaled, scaled_test = train.standardised(), test.standardised(like=train)
    assert torch.equal(
        scaled_test["a"].targets, test.standardised(like=scaled)["a"].targets
    )  # the scales of training rows that were standardised before
    for name in train:
        y, z = train[name].targets.double(), scaled[name].targets.double()
        torch.testing.assert_close(z, (y - y.mean()) / y.std(correction=0), atol=1e-6, rtol=1e-5)
        of_test = (test[name].targets.double() - y.mean()) / y.std(correction=0)
        torch.testing.assert_close(
            scaled_test[name].targets.double(), of_test, atol=1e-6, rtol=1e-5
        )
        undone = scaled_test.original(name, scaled_test[name].targets)
        torch.testing.assert_close(undone, test[name].targets)
    with pytest.raises(ValueError, match="standardised already"):
        scaled.standardised()
    with pytest.raises(ValueError, match="like has no rows of b"):
        test.standardised(like=train.only("a"))


def test_standardising_leaves_unknown_numbers_classes_and_constants_alone():
    inputs = torch.rand(4, 2)
    y = torch.tensor([[1.0, 7.0], [torch.nan, 7.0], [3.0, 7.0], [5.0, torch.nan]])
    tasks = domains({
        "reals": (inputs, y, qs.regression(2, missing=True)),
        "kind": (inputs, [0, 1, 0, 1], qs.classification(2)),
    })  # fmt: skip
    scaled = tasks.standardised()
    shift, scale = scaled.scales["reals"]
    torch.testing.assert_close(shift, torch.tensor([3.0, 7.0]))
    torch.testing.assert_close(scale, torch.tensor([math.sqrt(8 / 3), 1.0]))
    assert scaled["reals"].targets.isnan().sum() == 2
    assert set(scaled.scales) == {"reals"}
    assert scaled["kind"].targets.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("temperature", [1.0, 2.0, math.inf])
def test_tasks_are_drawn_by_temperature(temperature):
    tasks = three()
    source = tasks.batches(rows=2, support=2, temperature=temperature)
    powers = torch.tensor([40.0, 12.0, 8.0]).double() ** (1 / temperature)
    expected = powers / powers.sum()
    torch.testing.assert_close(torch.tensor(list(source.shares.values())).double(), expected)
    drawn = [qs.tasks.draw(source, 0, i).spec.name for i in range(900)]
    found = torch.tensor([drawn.count(name) / 900 for name in tasks]).double()
    # five deviations of a share of 900 draws: fails by chance once in about 600,000 runs
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / 900).sqrt()).all()


def test_support_and_query_of_a_batch_are_disjoint_and_shared_where_rows_are_few():
    source = three().batches(rows=10, support=5)
    assert {name: source.sizes(name) for name in "abc"} == {"a": (5, 10), "b": (4, 8), "c": (3, 5)}
    for index in range(20):
        task = qs.tasks.draw(source, 1, index)
        assert not set(values(task.support)) & set(values(task.query))
        assert (len(values(task.support)), len(values(task.query))) == source.sizes(task.spec.name)


@pytest.mark.parametrize("rows", [3, 5, 9])
def test_stacks_drawn_at_once_equal_tasks_drawn_one_by_one(rows):
    """With 9 rows of each part, tasks of 8 rows are padded; with 40 and 8 rows, too much."""
    sizes = {"a": 40, "b": 18, "c": 17, "d": 14}
    tasks = domains({name: numbered(n, 100 * n) for name, n in sizes.items()})
    source = tasks.batches(rows, temperature=math.inf)
    generators = [torch.Generator().manual_seed(task_seed(5, i)) for i in range(12)]
    assert source.stacked(generators) is not None
    (at_once,) = draw_stacks(source, 5, range(12), name_key=lambda spec: "")
    (one_by_one,) = stacks([qs.tasks.draw(source, 5, i) for i in range(12)], lambda spec: "")
    assert at_once.names == one_by_one.names
    assert at_once.places == one_by_one.places
    assert at_once.task.spec == one_by_one.task.spec
    found, expected = (list(leaves(list(each.task[:2]))) for each in (at_once, one_by_one))
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    by_name = draw_stacks(source, 5, range(12))  # for a learner that keeps names apart
    assert len(by_name) >= len(set(at_once.names))


def test_stacks_that_need_too_much_padding_or_several_answers_are_not_drawn_at_once():
    generators = [torch.Generator().manual_seed(i) for i in range(12)]
    assert three().batches(20, temperature=math.inf).stacked(generators) is None
    x = torch.rand(12, 3)
    mixed = domains({"a": (x, x, qs.regression(3)), "b": (x, [0, 1] * 6, qs.classification(2))})
    assert mixed.batches(3).stacked(generators) is None


def test_batches_leave_out_rows_whose_targets_are_all_unknown():
    nan = torch.nan
    table = torch.tensor([[nan, nan], [1, nan], [-1, nan], [0, 1], [nan, 0], [nan, nan]])
    rows = qs.examples(torch.arange(6.0)[:, None], table)
    rows = rows._replace(weights=torch.tensor([1.0, 1, 1, 1, 0, 1]))
    source = domains({"a": (rows, qs.multilabel(2)), "b": (rows, qs.multilabel(2))}).batches(4)
    for index in range(8):
        task = qs.tasks.draw(source, 0, index)
        assert sorted(values(task.support) + values(task.query)) == [1, 3]
    table[1, 0] = nan
    few = domains({"a": (rows._replace(targets=table), qs.multilabel(2)), "b": numbered(4)})
    with pytest.raises(ValueError, match=r"needs 2 rows with known targets.* in 1 task: a"):
        few.batches()


def test_tested_on_pairs_training_and_test_rows():
    train, test = three().split_rows(0.75)
    source = train.tested_on(test)
    assert [task.spec.name for task in source.tasks] == ["a", "b", "c"]
    for task in source.tasks:
        assert values(task.support) == values(train[task.spec.name])
        assert values(task.query) == values(test[task.spec.name])
    few = train.tested_on(test, 7).tasks
    assert [len(task.support.weights) for task in few] == [7, 7, 6]
    chosen, own = values(few[0].support), values(train["a"])
    assert set(chosen) < set(own)
    assert chosen == sorted(chosen) != own[:7]
    assert values(train.tested_on(test, 7, seed=1).tasks[0].support) != chosen
    with pytest.raises(ValueError, match="'d' is unknown"):
        train.tested_on(domains({"d": numbered(5), "a": numbered(5)}))


def test_much_memory_is_told_before_it_is_used(monkeypatch):
    train, test = three().split_rows(0.5)
    monkeypatch.setattr("quickstudy.tasks.named_rows.MUCH_MEMORY", 8 * 60 - 1)
    with pytest.warns(UserWarning, match="support and query rows of 3 tasks take"):
        train.tested_on(test)
    monkeypatch.setattr("quickstudy.tasks.named_rows.MUCH_MEMORY", 8 * 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.tested_on(test)


def test_617_columns_share_one_table():
    table = torch.randint(2, (30, 617)).float()
    table[:, 5] = torch.tensor([0.0, 1.0] * 15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = columns(torch.rand(30, 1024), table)
    assert len({id(each) for each in tasks.rows.inputs.values()}) == 1
    part, _ = tasks.only(["5"]).split_rows()
    assert part.rows.inputs["5"] is tasks.rows.inputs["5"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs at least 1 task"),
        (None, r"must be a mapping from names .* found NoneType"),
        ({"": numbered(5), "b": numbered(5)}, "one is an empty text"),
        ([("a", numbered(5)), ("a", numbered(5))], "found a more than once"),
        ({"a": (torch.rand(5, 2), torch.rand(5, 1))}, "must be \\(inputs, targets, spec\\)"),
        (
            {"a": numbered(5), "b": (torch.rand(5, 2), torch.rand(5, 1), qs.regression())},
            "same columns; found .*\\(1,\\)\\) in 'a' and .*\\(2,\\)\\) in 'b'",
        ),
        ({"a": (*numbered(5)[:2], qs.regression(name="b"))}, "a spec of the name 'b'"),
        (
            {"a": (torch.rand(3, 1), [-1, -1, -1], qs.classification(2))},
            "found none in 1 task: a",
        ),
        ({"a": (torch.rand(3, 1), [0, 1, 2], qs.classification(2))}, "domains: a: class ids"),
    ],
)
def test_what_domains_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        domains(given)


@pytest.mark.parametrize(
    ("table", "names", "message"),
    [
        (torch.full((3, 1), torch.inf), None, "0: targets must be finite"),
        (torch.rand(3), None, "must have shape \\(n, tasks\\)"),
        (torch.rand(3, 2), ["a"], "one name for each of 2 columns; found 1"),
        (torch.rand(3, 2), ["a", "a"], "found a more than once"),
        (torch.rand(4, 2), None, "3 rows|4 rows"),
        (torch.tensor([[0.0, torch.nan]] * 3), ["a", "b"], "found none in 1 task: b"),
    ],
)
def test_what_columns_refuses(table, names, message):
    with pytest.raises(ValueError, match=message):
        columns(torch.rand(3, 4), table, names)


def test_one_task_and_one_class_are_told():
    with pytest.warns(UserWarning, match="there is 1 task, 'a', so nothing is shared"):
        domains({"a": numbered(4)})
    table = torch.tensor([[0, 0, 1], [1, 0, 1], [0, 0, 1]])
    with pytest.warns(UserWarning, match=r"2 tasks of 3 have one class only, .*: 1, 2\."):
        tasks = columns(torch.rand(3, 2), table)
    assert tasks.one_class() == ("1", "2")


def test_test_rows_of_one_class_are_told_where_the_score_needs_both():
    ids, x = torch.tensor([0, 1, 0, 0]), torch.arange(4.0)[:, None]
    yes = ids[:, None].float()
    tasks = domains({"ids": (x, ids, qs.classification(2)), "yes": (x, yes, qs.multilabel(1))})
    test = NamedTasks(tasks.rows.select(dict.fromkeys(tasks, torch.tensor([2, 3]))), tasks.specs)
    with pytest.warns(UserWarning, match=r"1 task of 2 has one class only .*no ROC-AUC: yes\."):
        tasks.tested_on(test)


def test_a_part_without_labels_is_refused_with_its_tasks():
    table = torch.full((20, 2), torch.nan)
    table[:, 0] = torch.arange(20) % 2
    table[3, 1] = 0.5
    with pytest.raises(ValueError, match=r"found none in the (first|second) part of 1 task: 1"):
        columns(torch.rand(20, 2), table).split_rows()


def test_the_domains_of_a_data_set_are_named_tasks():
    sizes = {"enlarging": 4, "tapering": 6}
    rows = {name: qs.examples(torch.rand(n, 3), [0, 1] * (n // 2)) for name, n in sizes.items()}
    found = Domains(qs.datasets.card("mushrooms"), rows, qs.classification(2))
    tasks = domains(found)
    assert tasks.counts == {"enlarging": 4, "tapering": 6}
    assert tasks.specs["tapering"] == qs.classification(2, name="tapering")


def test_numbers_of_rows_are_whole_and_positive():
    tasks = three()
    for support in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"support must be a whole number .* found {support}"):
            tasks.tested_on(tasks, support=support)
    with pytest.raises(ValueError, match=r"must be whole numbers, at least 1; found rows=2\.5"):
        tasks.batches(2.5)
    with pytest.raises(ValueError, match="at least 1 task must stay"):
        tasks.only([])
    with pytest.raises(ValueError, match=r"answer must be an answer.*found TaskSpec"):
        columns(torch.rand(3, 4), torch.rand(3, 2), answer=qs.regression())


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda tasks: tasks.split_rows("x"), "split_rows: train must be a number; found 'x'"),
        (lambda tasks: tasks.split_rows(0.5, seed=None), "seed must be a whole number; found None"),
        (lambda tasks: tasks.split_groups([0.5]), "split_groups: train must be a number"),
        (lambda tasks: tasks.tested_on({}), "tested_on: test must be a NamedTasks; found {}"),
        (lambda tasks: tasks.batches("x"), "batches: rows must be a whole number; found 'x'"),
        (lambda tasks: tasks.batches(temperature=None), "temperature must be a number; found None"),
        (lambda tasks: tasks.split_tasks(0.5), "held_out must be a whole number or"),
        (lambda _: qs.tasks.related(4, 2, "x"), "related: noise must be a number; found 'x'"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(call: Any, what: str) -> None:
    rows = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    tasks = qs.tasks.domains({n: (rows, rows[:, :1], qs.regression()) for n in ("a", "b")})
    with pytest.raises(ValueError, match=re.escape(what)):
        call(tasks)
