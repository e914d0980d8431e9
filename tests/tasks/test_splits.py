"""Splitting classes and rows: sizes, separation, and what is refused."""

from __future__ import annotations

import pytest
import torch

from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import class_folds, split_classes, split_rows


def classes_of(n: int, rows: int = 1) -> LabelledRows:
    """``n`` classes of ``rows`` rows; each row holds its own number."""
    return LabelledRows(
        torch.arange(float(n * rows))[:, None], torch.full((n,), rows), tuple(map(str, range(n)))
    )


def sizes(n: int, **how: object) -> list[int]:
    return [len(part) for part in split_classes(classes_of(n), **how)]  # type: ignore[arg-type]


def test_few_classes_are_split_so_that_tests_have_ways():
    # By hand: half of the classes at most are held out, and no more than 5 for either purpose.
    assert sizes(6) == [2, 2, 2]
    assert sizes(10) == [5, 2, 3]
    assert sizes(12) == [6, 3, 3]
    assert sizes(16) == [8, 4, 4]
    assert sizes(20) == [10, 5, 5]
    assert sizes(25) == [15, 5, 5]
    assert sizes(100) == [64, 16, 20], "as mini-ImageNet"


@pytest.mark.parametrize("n", range(6, 60))
def test_every_number_of_classes_is_split(n):
    train, val, test = sizes(n)
    assert train + val + test == n
    assert min(val, test) >= 2
    assert train >= max(2, n // 2 - 1)
    ways = min(5, test)  # of the tasks that are drawn then; asking for them changes nothing
    assert sizes(n, ways=ways) == [train, val, test]


def test_given_ways_get_as_many_test_classes():
    assert sizes(10, ways=5) == [3, 2, 5]
    assert sizes(40, ways=10) == [20, 10, 10]
    with pytest.raises(ValueError, match=r"7 ways were asked, which leaves 1 of 10 .* at most 6"):
        split_classes(classes_of(10), ways=7)


def test_given_fractions_are_obeyed():
    assert sizes(10, fractions=(0.4, 0.2, 0.4)) == [4, 2, 4]
    with pytest.raises(ValueError, match=r"of 6 classes leave 0 for training"):
        split_classes(classes_of(6), (0.1, 0.6, 0.3))


def test_rows_are_split_within_each_class():
    given = classes_of(3, 20)
    parts = split_rows(given, seed=1)
    assert [part.counts.tolist() for part in parts] == [[12] * 3, [4] * 3, [4] * 3]
    for index in range(3):
        rows = torch.cat([part.rows(index) for part in parts]).flatten().tolist()
        assert sorted(rows) == given.rows(index).flatten().tolist(), "each row in one split"
    assert not torch.equal(parts[0].inputs, split_rows(given, seed=2)[0].inputs)
    assert torch.equal(parts[0].inputs, split_rows(given, seed=1)[0].inputs)
    for shares, counts in (((0.5, 0.25, 0.25), [10, 5, 5]), ((0.1, 0.1, 0.8), [2, 2, 16])):
        parts = split_rows(given, shares)
        assert [part.counts.tolist() for part in parts] == [[n] * 3 for n in counts]


@pytest.mark.parametrize("rows", range(6, 30))
def test_every_part_of_a_class_has_two_rows(rows):
    for fractions in (None, (0.98, 0.01, 0.01), (0.01, 0.01, 0.98), (0.01, 0.98, 0.01)):
        parts = split_rows(classes_of(2, rows), fractions)
        counts = [int(part.counts[0]) for part in parts]
        assert min(counts) >= 2
        assert sum(counts) == rows


def test_folds_test_on_every_class_once():
    given = classes_of(11)
    folds = list(class_folds(given, 3))
    assert [len(test) for _, test in folds] == [4, 4, 3]
    tested = [name for _, test in folds for name in test.names]
    assert sorted(tested) == sorted(given.names)
    for train, test in folds:
        assert {*train.names, *test.names} == set(given.names)
        assert not {*train.names} & {*test.names}
    other = [test.names for _, test in class_folds(given, 3, seed=1)]
    assert other != [test.names for _, test in folds]


@pytest.mark.parametrize(
    ("n", "folds", "message"),
    [(10, 1, "Give 2 to 5 folds"), (10, 6, "Give 2 to 5 folds"), (3, 2, "2 folds need 4")],
)
def test_folds_without_enough_classes_are_refused(n, folds, message):
    with pytest.raises(ValueError, match=message):
        list(class_folds(classes_of(n), folds))
