"""A data set: three splits with separate classes."""

from __future__ import annotations

from dataclasses import dataclass

from quickstudy.datasets.registry import Card
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import refuse_overlap


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test classes; ValueError where a class is in two splits."""

    card: Card
    train: LabelledRows
    val: LabelledRows
    test: LabelledRows

    def __post_init__(self) -> None:
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
        shape = tuple(self.train.inputs.shape[1:])
        return f"Dataset({self.name}: classes {sizes}; inputs {shape})"
