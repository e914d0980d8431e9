"""Class labels of rows: their names and ids, and refusing labels that are no classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from quickstudy.base.arrays import array_of, refuse_foreign

_MISSING = ("", "nan", "NaN", "None", "NaT", "<NA>")
"""What numpy and pandas write for a missing label in an array of texts."""


def class_ids(labels: Any, n: int, what: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted class names of ``labels`` (n,), and each row's id (n,).

    Raises ValueError, beginning with ``what``, for labels of another shape, for unknown ones
    (negative, NaN, None or missing text), and for real numbers, which are targets of regression.
    """
    values = as_labels(labels, what)
    if values.ndim != 1 or len(values) != n:
        raise ValueError(
            f"{what}: labels must have shape ({n},), one per row of inputs; found {values.shape}. "
            "Give the class of each row."
        )
    unknown = np.array([_is_unknown(value) for value in values.tolist()], dtype=bool)
    if unknown.any():
        raise ValueError(
            f"{what}: every row needs a class, but {unknown.sum()} of {n} labels are unknown (as "
            f"{values[unknown][0]!r} for row {int(unknown.argmax())}). Leave these rows out, or "
            "name their class."
        )
    if values.dtype.kind == "f" and not (values == np.round(values)).all():
        raise ValueError(
            f"{what}: labels must be names or whole numbers; found real numbers, such as "
            f"{values[values != np.round(values)][0]:g}. They are targets of a regression: make "
            "tasks with qs.examples(inputs, targets[:, None]) and qs.regression(). Or round them."
        )
    try:
        names, ids = np.unique(values, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values.tolist()})
        raise ValueError(
            f"{what}: labels must be of one type, so that classes have an order; found "
            f"{', '.join(kinds)}. Turn them all into text."
        ) from error
    return tuple(str(name) for name in names), ids


def as_labels(labels: Any, what: str) -> np.ndarray:
    """Labels as an array; ValueError for anything but lists, arrays and tensors."""
    if isinstance(labels, Tensor):
        return array_of(labels, f"{what}: labels")
    labels = list(labels) if isinstance(labels, (tuple, range)) else labels
    if isinstance(labels, list):
        refuse_foreign(labels, f"{what}: labels")
        kinds = {type(value) for value in labels}
        lengths = {_length(value) for value in labels}
        if len(lengths) > 1:
            raise ValueError(
                f"{what}: labels must be one for each row; found rows of several, in different "
                "numbers. Give the class of each row."
            )
        # numpy would turn None and NaN among texts into the texts "None" and "nan".
        return np.array(labels, dtype=object) if len(kinds) > 1 else np.asarray(labels)
    if not hasattr(labels, "__array__"):
        raise ValueError(
            f"{what}: labels must be a list, an array or a tensor; found "
            f"{type(labels).__name__}. Give the class of each row."
        )
    return np.asarray(labels)


def _length(label: Any) -> int | None:
    """How many labels this holds in place of one; None for one."""
    several = isinstance(label, (list, tuple, set, dict)) or getattr(label, "ndim", 0) > 0
    return len(label) if several else None


def _is_unknown(value: Any) -> bool:
    if value is None or value != value:
        return True
    if isinstance(value, str):
        return value in _MISSING
    return isinstance(value, (int, float)) and value < 0
