"""A user's own DataFrames with a target column, arrays X and y, and texts: reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from quickstudy.answers.specs import classification, regression
from quickstudy.base.arrays import as_tensors
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, TaskSpec
from quickstudy.tasks.examples import examples
from quickstudy.tasks.labels import as_labels, class_ids

Labelled = tuple[Examples, TaskSpec, tuple[str, ...]]
"""Rows, what is asked of them, and the names of the classes; () for real targets."""


MOST_CLASSES = 20
"""Different whole numbers, up to which they are classes; more of them with gaps are numbers."""


def is_frame(data: Any) -> bool:
    """Whether it is a pandas DataFrame, which is not imported for this."""
    return hasattr(data, "columns") and hasattr(data, "dtypes") and hasattr(data, "to_numpy")


def columns_of(frame: Any, target: str | None, who: str = "recommend") -> tuple[Any, Any]:
    """The inputs (n, d) and the target (n,) of a DataFrame.

    Raises ValueError for a target that is no column, for columns that are not numbers or miss
    values, for no rows and for no other column.
    """
    names = [str(name) for name in frame.columns]
    if target is None:
        raise ValueError(
            f"{who}: a DataFrame needs the name of the column to predict; found none. Give "
            f"target={names[-1]!r}, or another of its columns."
        )
    if target not in names:
        raise unknown_name(f"{who}: target column", target, dict.fromkeys(names))
    if not len(frame):
        raise ValueError(f"{who}: needs rows; found a DataFrame without any. Add rows.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{who}: every column needs a name of its own; found {first_few(twice)} more than "
            "once. Rename them, or leave them out."
        )
    wanted = [name for name in names if name != target]
    if not wanted:
        raise ValueError(
            f"{who}: needs columns to predict from; found the target alone. Add columns."
        )
    frame = frame.set_axis(names, axis=1)
    texts = [name for name in wanted if frame[name].dtype.kind not in "biuf"]
    if texts:
        raise ValueError(
            f"{who}: columns must be numbers; found {first_few(texts)} of "
            f"{', '.join(sorted({str(frame[name].dtype) for name in texts[:3]}))}. Encode them "
            "(pandas.get_dummies), or leave them out."
        )
    missing = {name: int(frame[name].isna().sum()) for name in names}
    missing = {name: number for name, number in missing.items() if number}
    if missing:
        told = [f"{name} ({number})" for name, number in missing.items()]
        raise ValueError(
            f"{who}: every cell must be known; found missing values in {first_few(told)}. Fill "
            "them (DataFrame.fillna), or leave their rows out (DataFrame.dropna)."
        )
    return frame[wanted].to_numpy(dtype=np.float32), frame[target].to_numpy()


def labelled_rows(inputs: Any, targets: Any, who: str = "recommend") -> Labelled:
    """Rows with classes or real targets, from arrays X and y.

    Targets are numbers to regress where :func:`are_real` says so; all else are classes.

    Raises ValueError for no rows or columns, missing values, numbers of rows that differ, and one
    class.
    """
    if targets is None:
        raise ValueError(
            f"{who}: an array needs targets; found X alone. Give qs.recommend(X, y), or a "
            "DataFrame with target=."
        )
    tensors = as_tensors(inputs, f"{who}: X")
    rows = len(tensors) if hasattr(tensors, "__len__") else 0
    if not rows:
        raise ValueError(f"{who}: needs rows; found X without any. Add rows.")
    if torch.is_tensor(tensors) and (tensors.ndim < 2 or not tensors[0].numel()):
        raise ValueError(
            f"{who}: X must have rows of at least one number; found shape {tuple(tensors.shape)}. "
            "Give X (rows, columns); a single column is X[:, None]."
        )
    values = as_labels(targets, who)
    if len(values) != rows:
        raise ValueError(
            f"{who}: X and y must have one row for each other; found {rows} and {len(values)}. "
            "Give the target of each row."
        )
    _refuse_missing(tensors, f"{who}: X")
    if are_real(values):
        unknown = int((~np.isfinite(values)).sum())
        if unknown:
            raise ValueError(
                f"{who}: every target must be a finite number; found {unknown} NaN or infinite in "
                "y. Leave these rows out."
            )
        # A copy, since arrays of pandas may be read-only.
        real = torch.as_tensor(values.astype(np.float64), dtype=torch.get_default_dtype())
        real = real[:, None] if real.ndim == 1 else real
        return examples(tensors, real), regression(real.shape[1]), ()
    names, ids = class_ids(targets, rows, who)
    if len(names) < 2:
        raise ValueError(
            f"{who}: a classifier needs at least 2 classes; found 1, {shown(names[0])}. Add rows "
            "of another class."
        )
    return examples(tensors, torch.from_numpy(ids)), classification(len(names)), names


def _refuse_missing(tensors: Any, what: str) -> None:
    if torch.is_tensor(tensors) and tensors.is_floating_point():
        missing = int(tensors.isnan().sum())
        if missing:
            raise ValueError(
                f"{what} must be known; found {count(missing, 'missing value')} (NaN). Fill them, "
                "or leave their rows out."
            )


def are_real(values: np.ndarray) -> bool:
    """Whether targets are numbers to regress.

    They are where y has columns (n, d), and where not all numbers are whole. Whole numbers, such as
    prices, are too where more than :data:`MOST_CLASSES` different ones occur, with gaps between
    them; without gaps they are taken for ids of classes.
    """
    if values.dtype.kind not in "fiu":
        return False
    if values.ndim == 2:
        return True
    known = np.unique(values[~np.isnan(values)].astype(np.float64))
    if bool((known != np.round(known)).any()) or not bool(np.isfinite(known).all()):
        return True
    return len(known) > MOST_CLASSES and bool(known[-1] - known[0] >= len(known))


def same_columns(frame: Any, others: Sequence[Any], target: str | None) -> None:
    """ValueError unless all DataFrames have the columns of the first, in any order."""
    wanted = {str(name) for name in frame.columns}
    for other in others:
        found = {str(name) for name in other.columns}
        if found != wanted:
            differ = first_few(sorted(wanted ^ found))
            raise ValueError(
                f"recommend: all tables need the same columns, with {target!r} among them; found "
                f"{differ} in some alone. Leave them out, or add them."
            )


def texts_of(data: Any) -> list[str] | None:
    """The texts of a list, an array or a Series of them; None for anything else."""
    kind = getattr(getattr(data, "dtype", None), "kind", "")
    if not isinstance(data, (list, tuple)) and not (kind in ("U", "O") and data.ndim == 1):
        return None
    texts = list(data)
    return (
        [str(each) for each in texts]
        if texts and all(isinstance(each, str) for each in texts)
        else None
    )
