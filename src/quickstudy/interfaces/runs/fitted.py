"""Fitting the defaults of a recipe to its data, and recording which classes are in which split."""

from __future__ import annotations

import json
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.words import count, enumerated
from quickstudy.datasets.dataset import Dataset
from quickstudy.interfaces.runs.recipe import Limits, Recipe

FILE = "split.json"

_WHAT = {
    "ways": ("way", "ways", ""),
    "queries": ("query", "queries", " of each class"),
    "train_ways": ("way", "ways", " in training"),
    "train_queries": ("query", "queries", " of each class in training"),
}


def limits(recipe: Recipe, data: Dataset) -> Limits:
    """What ``data`` allow; of a cross-validation, what all of its folds allow."""
    held_out = [split for split in (data.val, data.test) if len(split)] or [data.train]
    test_classes, train_classes = len(data.test), len(data.train)
    if recipe.folds:
        everything = train_classes + test_classes
        test_classes = everything // recipe.folds
        train_classes = everything + -everything // recipe.folds  # without the largest fold
    return Limits(
        train_classes,
        test_classes,
        int(data.train.counts.min()),
        min(int(split.counts.min()) for split in held_out),
    )


def fitted(recipe: Recipe, complete: Recipe, data: Dataset) -> str:
    """What ``complete`` has other than the usual defaults, because of ``data``.

    "" where it has all of them, or only fewer ways in training, which changes no result's meaning.
    """
    usual, found = recipe.budget(), complete.budget()
    changes = [
        f"{count(getattr(found, name), one, many)}{of} instead of {getattr(usual, name)}"
        for name, (one, many, of) in _WHAT.items()
        if getattr(found, name) != getattr(usual, name)
    ]
    if all(getattr(found, name) == getattr(usual, name) for name in _WHAT if name != "train_ways"):
        return ""
    if recipe.folds:
        held = f"in {count(recipe.folds, 'fold')} of {limits(recipe, data).test_classes} or more"
        because = f"{count(len(data.train), 'class', 'classes')} {held}"
    else:
        because = classes_of(data)
    few = min(int(split.counts.min()) for split in data.splits.values() if len(split))
    remedy = "Give other numbers, or fractions of the split, to choose otherwise"
    if data.new_classes and not recipe.folds:
        remedy += "; give folds to test on every class in turn"
    return (
        f"{recipe.data}: tasks have {', '.join(changes)}, because there are {because}, the "
        f"smallest with {count(few, 'row')}. {remedy}."
    )


def classes_of(data: Dataset) -> str:
    """The number of classes of ``data`` in words, and how they are split."""
    train, val, test = (len(split) for split in data.splits.values())
    if not data.new_classes:
        rows = [f"{int(split.counts.sum()):,}" for split in data.splits.values()]
        return (
            f"{count(train, 'class', 'classes')}, whose rows are split: {rows[0]} to train on, "
            f"{rows[1]} to validate and {rows[2]} to test"
        )
    parts = [f"{train:,} to train on"]
    parts += [f"{n:,} to {what}" for n, what in ((val, "validate"), (test, "test")) if n]
    return f"{count(train + val + test, 'class', 'classes')}, {enumerated(parts)}"


def keep_split(path: Path, data: Dataset) -> None:
    """Record in run folder ``path`` which classes of the user's own ``data`` are in which split.

    Raises ValueError where another split is recorded: if classes were added to the folder since, a
    new split of it would test on classes that the learner was trained on.
    """
    if data.card.classes is not None:  # a published split
        return
    found = {
        name: dict(zip(split.names, split.counts.tolist(), strict=True))
        for name, split in data.splits.items()
    }
    file = path / FILE
    if not file.exists():
        write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
        return
    recorded = _read(file)
    if recorded == found:
        return
    raise ValueError(
        f"{path}: the data are no longer those of this run ({_difference(recorded, found)}), so "
        "another split would test on classes or rows that the learner was trained on. Restore the "
        "data, or start a new run."
    )


def what_is_new(path: Path) -> str:
    """What the test of the run in ``path`` has that training had not: classes, or only rows."""
    splits = _read(path / FILE) if (path / FILE).exists() else {}
    if set(splits.get("train", ())) & set(splits.get("test", ())):
        return "test rows do not occur in training, but their classes do"
    return "test classes do not occur in training"


def own_classes(path: Path) -> list[str]:
    """The classes of the user's own data in run folder ``path``; none for a published data set."""
    splits = _read(path / FILE) if (path / FILE).exists() else {}
    return list(dict.fromkeys(name for split in splits.values() for name in split))


def training_classes(path: Path) -> frozenset[str]:
    """The user's own classes on which the learner of run folder ``path`` was trained."""
    return frozenset(_read(path / FILE)["train"]) if (path / FILE).exists() else frozenset()


def _read(file: Path) -> dict[str, dict[str, int]]:
    with damage_names(file):
        return {name: dict(classes) for name, classes in read_json(file, most=2**28).items()}


def _difference(recorded: dict[str, dict[str, int]], found: dict[str, dict[str, int]]) -> str:
    """The first difference of two splits, in words."""
    before, now = (
        {name: n for split in splits.values() for name, n in split.items()}
        for splits in (recorded, found)
    )
    for name in sorted({*before, *now}):
        if name not in before:
            return f"class {name!r} is new"
        if name not in now:
            return f"class {name!r} is gone"
    for split, classes in recorded.items():
        for name, n in classes.items():
            other = found.get(split, {}).get(name)
            if other not in (None, n):
                return f"class {name!r} had {count(n, 'row')} to {split}, and has {other:,}"
    return "the same classes are split otherwise"
