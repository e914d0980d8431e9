"""Splitting classes, or their rows, into train, validation and test, and refusing overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from quickstudy.base.splitting import USUAL_WAYS, check_fractions
from quickstudy.base.trees import map_tree
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.rows import LabelledRows

SHARES = (0.64, 0.16, 0.2)
"""Of train, validation and test, as in mini-ImageNet: 64, 16 and 20 of 100 classes."""
FEWEST_TO_SPLIT = 6
"""Three splits of 2 classes each, since a task needs 2."""

Splits = tuple[LabelledRows, LabelledRows, LabelledRows]


def split_classes(
    classes: LabelledRows,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    ways: int | None = None,
    turn: int = 0,
) -> Splits:
    """Split the classes at random into train, validation and test; deterministic per seed.

    ``fractions``  of the three splits. By default :data:`SHARES`, fitted where classes are few:
                   validation and test then have 5 classes each, so that 5-way tasks can be drawn,
                   or as many as leave half of the classes for training.
    ``ways``       the fewest test classes, where ``fractions`` are not given.
    ``turn``       of several splits of one seed: turns 0, 1, … have other test classes each, as
                   long as there are classes for that.

    Raises ValueError for fewer than 6 classes, and for fractions or ways that they do not allow.
    """
    n = len(classes)
    if n < FEWEST_TO_SPLIT:
        raise ValueError(
            f"split_classes: three splits of at least 2 classes need {FEWEST_TO_SPLIT} classes; "
            f"found {n}. Add classes, or define the splits yourself."
        )
    train, val, test = _fitted(n, ways) if fractions is None else _shared(n, fractions)
    order = _shuffled(n, seed).roll(turn * test).tolist()
    parts = order[:train], order[train : train + val], order[n - test :]
    return tuple(classes.select(sorted(part)) for part in parts)  # type: ignore[return-value]


def _shared(n: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """The sizes of splits by ``fractions`` of ``n`` classes, validation and test at least 2."""
    check_fractions(fractions)
    val, test = (max(2, round(share * n)) for share in fractions[1:])
    if n - val - test < 2:
        raise ValueError(
            f"split_classes: fractions {tuple(fractions)} of {n} classes leave "
            f"{max(0, n - val - test)} for training. Raise the first fraction, or add classes."
        )
    return n - val - test, val, test


def _fitted(n: int, ways: int | None) -> tuple[int, int, int]:
    """The sizes of the splits of ``n`` classes, with test tasks of ``ways`` in mind."""
    held_out = n // 2
    least = min(USUAL_WAYS, -(-held_out // 2)) if ways is None else ways
    test = max(2, least, round(SHARES[2] * n))
    val = max(2, round(SHARES[1] * n), min(ways or USUAL_WAYS, held_out - test))
    if n - val - test < 2:
        raise ValueError(
            f"split_classes: {ways} ways were asked, which leaves "
            f"{max(0, n - val - test)} of {n} classes for training. "
            f"Ask for at most {n - 4} ways, or add classes."
        )
    return n - val - test, val, test


def split_rows(
    classes: LabelledRows, fractions: Sequence[float] | None = None, seed: int = 0
) -> Splits:
    """Split the rows of every class at random into train, validation and test.

    All three have the same classes: for data with too few classes to hold any out. A result on the
    test rows is about new rows of these classes, and says nothing about new classes.

    ``fractions``  of the rows of each class, 0.6, 0.2 and 0.2 by default; every class has at least
                   2 rows in each split.

    Raises ValueError for a class of fewer than 6 rows.
    """
    fractions = (0.6, 0.2, 0.2) if fractions is None else fractions
    check_fractions(fractions)
    smallest = int(classes.counts.argmin())
    if int(classes.counts[smallest]) < FEWEST_TO_SPLIT:
        raise ValueError(
            f"split_rows: a task needs 2 rows of each class, so three splits need "
            f"{FEWEST_TO_SPLIT}, but class {classes.names[smallest]!r} has "
            f"{int(classes.counts[smallest])}. Add rows, or leave the class out."
        )
    parts: tuple[list[Tensor], ...] = ([], [], [])
    random = generator(seed)
    for start, count in zip(classes.starts.tolist(), classes.counts.tolist(), strict=True):
        test = max(2, min(round(fractions[2] * count), count - 4))
        val = max(2, min(round(fractions[1] * count), count - 2 - test))
        rows = start + torch.randperm(count, generator=random)
        for part, chosen in zip(parts, rows.split([count - val - test, val, test]), strict=True):
            part.append(chosen.sort().values)
    return tuple(_rows_of(classes, part) for part in parts)  # type: ignore[return-value]


def _rows_of(classes: LabelledRows, chosen: list[Tensor]) -> LabelledRows:
    order = torch.cat(chosen)
    inputs = map_tree(lambda leaf: leaf[order.to(leaf.device)], classes.inputs)
    return LabelledRows(inputs, torch.tensor([len(each) for each in chosen]), classes.names)


def class_folds(
    classes: LabelledRows, folds: int, seed: int = 0
) -> Iterator[tuple[LabelledRows, LabelledRows]]:
    """Train and test classes of each fold of a cross-validation over classes.

    The classes are divided at random into ``folds`` groups, whose sizes differ by 1 at most. Each
    group is the test classes of one fold, and all other classes its training classes.

    Raises ValueError for fewer than 2 folds, and where a group would have fewer than 2 classes.
    """
    n = len(classes)
    if folds < 2 or n // folds < 2:
        allowed = f"Give 2 to {n // 2} folds." if n >= 4 else "Add classes: 2 folds need 4."
        raise ValueError(
            "class_folds: every fold needs 2 test classes, and classes to train on; found "
            f"folds={folds} for {n} classes. {allowed}"
        )
    for group in _shuffled(n, seed).tensor_split(folds):
        test = sorted(group.tolist())
        yield classes.select([i for i in range(n) if i not in test]), classes.select(test)


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed))


def refuse_overlap(**splits: LabelledRows) -> None:
    """ValueError where two splits share a class name: test classes must not occur in training."""
    for (first, a), (second, b) in combinations(splits.items(), 2):
        shared = sorted(set(a.names) & set(b.names))
        if shared:
            raise ValueError(
                f"splits: {first} and {second} must not share classes, but {len(shared)} are in "
                f"both: {', '.join(shared[:5])}. Move each class to one split."
            )
