"""A data set: three splits with separate classes, or with separate rows of the same classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quickstudy.base.trees import named_leaves
from quickstudy.datasets.registry import Card
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import (
    FEWEST_TO_SPLIT,
    Splits,
    refuse_overlap,
    split_classes,
    split_rows,
)


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test classes; ValueError where a class is in two splits.

    ``val``          without classes where there is no validation.
    ``new_classes``  False where the splits are separate rows of the same classes, so that test
                     tasks have new rows, but no new classes.
    ``within_superclass``  whether the classes of a task must come from one superclass, because
                     those of two differ in more than what is asked.
    """

    card: Card
    train: LabelledRows
    val: LabelledRows
    test: LabelledRows
    new_classes: bool = field(default=True, kw_only=True)
    within_superclass: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.new_classes:
            refuse_overlap(train=self.train, val=self.val, test=self.test)

    @property
    def name(self) -> str:
        """The name under which the data set is registered."""
        return self.card.name

    @property
    def splits(self) -> dict[str, LabelledRows]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{k} {len(v)}" for k, v in self.splits.items())
        shapes = [
            f"{name + ' ' if name else ''}{tuple(leaf.shape[1:])}"
            for name, leaf in named_leaves(self.train.inputs)
        ]
        same = "" if self.new_classes else ", the same in all, with separate rows"
        return f"Dataset({self.name}: classes {sizes}{same}; inputs {', '.join(shapes)})"


def in_order(splits: Mapping[str, LabelledRows]) -> Splits:
    """Splits by name as train, validation and test."""
    return splits["train"], splits["val"], splits["test"]


def split_dataset(
    card: Card,
    classes: LabelledRows,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    ways: int | None = None,
) -> Dataset:
    """A data set of ``classes``, split at random by whole classes (:func:`split_classes`).

    Fewer than 6 classes are too few to hold any out: with a UserWarning, rows of each class are
    held out instead (:func:`split_rows`).

    Raises ValueError for a single class, and as these functions do.
    """
    if len(classes) < 2:
        raise ValueError(
            f"{card.name}: a task needs at least 2 classes; found {len(classes)}, "
            f"{', '.join(map(repr, classes.names))}. Add a class."
        )
    if len(classes) >= FEWEST_TO_SPLIT:
        return Dataset(card, *split_classes(classes, fractions, seed, ways))
    warnings.warn(
        f"{card.name}: {len(classes)} classes are too few to keep some of them for the test, which "
        f"takes {FEWEST_TO_SPLIT}, so rows of every class are kept instead. Results say how well "
        "new rows of these same classes are told apart, and nothing about new classes.",
        stacklevel=2,
    )
    return Dataset(card, *split_rows(classes, fractions, seed), new_classes=False)
