"""Splitting classes into train, validation and test, and refusing splits that overlap."""

from __future__ import annotations

from itertools import combinations

import torch

from quickstudy.tasks.numbering import generator
from quickstudy.tasks.rows import LabelledRows


def split_classes(
    classes: LabelledRows, fractions: tuple[float, float, float] = (0.64, 0.16, 0.2), seed: int = 0
) -> tuple[LabelledRows, LabelledRows, LabelledRows]:
    """Split the classes at random into train, validation and test; deterministic per seed.

    The default fractions are as in mini-ImageNet (64, 16 and 20 of 100 classes).
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split_classes: fractions must be positive and add up to 1; found {fractions}."
        )
    if len(classes) < 6:
        raise ValueError(
            f"split_classes: three splits of at least 2 classes need 6 classes; found "
            f"{len(classes)}. Add classes, or define the splits yourself."
        )
    order = torch.randperm(len(classes), generator=generator(seed)).tolist()
    val = max(2, round(fractions[1] * len(classes)))
    test = max(2, round(fractions[2] * len(classes)))
    train = len(classes) - val - test
    if train < 2:
        raise ValueError(
            f"split_classes: fractions {fractions} of {len(classes)} classes leave {train} for "
            "training. Raise the first fraction, or add classes."
        )
    parts = order[:train], order[train : train + val], order[train + val :]
    return tuple(classes.select(sorted(part)) for part in parts)  # type: ignore[return-value]


def refuse_overlap(**splits: LabelledRows) -> None:
    """ValueError where two splits share a class name: test classes must not occur in training."""
    for (first, a), (second, b) in combinations(splits.items(), 2):
        shared = sorted(set(a.names) & set(b.names))
        if shared:
            raise ValueError(
                f"splits: {first} and {second} must not share classes, but {len(shared)} are in "
                f"both: {', '.join(shared[:5])}. Move each class to one split."
            )
