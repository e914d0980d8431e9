"""Rows grouped by class: the type of data set splits, from which ``episodes`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.arrays import as_tensors, one_tensor
from quickstudy.base.door import check_rows, is_integer, to_stored
from quickstudy.base.trees import concatenate, map_tree, named_leaves, rows
from quickstudy.base.words import count
from quickstudy.tasks.labels import class_ids


@dataclass(frozen=True, repr=False)
class LabelledRows:
    """The rows of one split, sorted by class, so that each class is one contiguous block.

    ``inputs``  (rows, ...): images (rows, channels, height, width), reals, ids, or a tree of such
                (token ids and mask), as tensors, arrays or lists; in memory, memory-mapped or on a
                GPU. Pixels are stored as uint8 and scaled to [0, 1] in each episode; all else is
                converted as by :func:`quickstudy.base.door.to_inputs`.
    ``counts``  (classes,): number of rows per class, at least one.
    ``names``   one unique name per class.
    ``superclasses``  the larger class that each class belongs to (the alphabet of a character), or
                None; :func:`quickstudy.episodes` can draw tasks ``within`` them.

    Raises ValueError for counts and names that do not fit, and for inputs that ``qs.examples``
    would refuse.
    """

    inputs: Any
    counts: Tensor
    names: tuple[str, ...]
    superclasses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = one_tensor(self.counts, "LabelledRows: counts")
        if not is_integer(counts) or counts.ndim != 1:
            raise ValueError(
                "LabelledRows: counts must be integers (classes,), one number of rows for each "
                f"class; found {counts.dtype} of shape {tuple(counts.shape)}. Count the "
                "rows of each class, or use LabelledRows.from_labels(inputs, labels)."
            )
        inputs = as_tensors(self.inputs, "LabelledRows: inputs")
        object.__setattr__(self, "counts", counts.long())
        object.__setattr__(self, "names", tuple(self.names))
        check_rows(inputs, "LabelledRows")
        if len(self.names) != len(self.counts):
            raise ValueError(
                f"LabelledRows: found {count(len(self.names), 'name')} for "
                f"{count(len(self.counts), 'class', 'classes')}. "
                "Give one name per class."
            )
        if self.superclasses is not None and len(self.superclasses) != len(self.names):
            raise ValueError(
                f"LabelledRows: {len(self.superclasses)} superclasses were given for "
                f"{len(self.names)} classes. Give one for each class, or None."
            )
        if len(set(self.names)) != len(self.names):
            duplicates = sorted({n for n in self.names if self.names.count(n) > 1})[:3]
            raise ValueError(
                f"LabelledRows: class names must be unique, but {duplicates} occur twice."
            )
        empty = [n for n, c in zip(self.names, self.counts.tolist(), strict=True) if c < 1]
        if empty:
            raise ValueError(
                f"LabelledRows: every class needs at least one row, but {empty[:3]} "
                f"({len(empty)} in all) are empty. Remove them, or add rows."
            )
        object.__setattr__(self, "inputs", to_stored(inputs, "LabelledRows"))
        for name, leaf in named_leaves(inputs, "inputs"):
            if int(self.counts.sum()) != len(leaf):
                raise ValueError(
                    f"LabelledRows: counts add up to {int(self.counts.sum())}, but {name} have "
                    f"{count(len(leaf), 'row')}. Give one row for each."
                )

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name + ' ' if name else ''}{tuple(leaf.shape[1:])} {str(leaf.dtype)[6:]}"
            for name, leaf in named_leaves(self.inputs)
        )
        n, classes = count(rows(self.inputs), "row"), count(len(self), "class", "classes")
        return f"LabelledRows({n} of {classes}, {shapes})"

    @staticmethod
    def from_labels(inputs: Any, labels: Sequence[object] | Tensor | np.ndarray) -> LabelledRows:
        """Group ``inputs`` (n, ...) by ``labels`` (n,); classes in sorted order.

        ``labels``  names, numbers or other values of one type, but no real numbers.

        Raises ValueError for labels of another shape and for unknown ones (-1, NaN, None), and what
        the constructor raises.
        """
        inputs = as_tensors(inputs, "LabelledRows: inputs")
        names, ids = class_ids(labels, check_rows(inputs, "LabelledRows"), "LabelledRows")
        order = torch.from_numpy(np.argsort(ids, kind="stable"))
        counts = torch.from_numpy(np.bincount(ids, minlength=len(names)))
        ordered = map_tree(lambda leaf: leaf[order.to(leaf.device)], inputs)
        return LabelledRows(ordered, counts, names)

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    @cached_property
    def starts(self) -> Tensor:
        """(classes,): the first row of each class."""
        return torch.cumsum(self.counts, 0) - self.counts

    def rows(self, index: int) -> Any:
        """All rows of class ``index``, a view."""
        part = slice(start := int(self.starts[index]), start + int(self.counts[index]))
        return map_tree(lambda leaf: leaf[part], self.inputs)

    def select(self, indices: Sequence[int]) -> LabelledRows:
        """The classes at ``indices``, in that order.

        Raises ValueError for no index, and for any that is not a whole number below the number of
        classes.
        """
        chosen = indices.tolist() if isinstance(indices, (Tensor, np.ndarray)) else list(indices)
        wrong = [i for i in chosen if not self._is_class(i)]
        if not chosen or wrong:
            found = f"{wrong[:3]}" if wrong else "none"
            raise ValueError(
                f"select: needs at least 1 class, each by its index 0 … {len(self) - 1}; found "
                f"{found}. Find the index of a name with split.names.index(name)."
            )
        return LabelledRows(
            concatenate(*(self.rows(i) for i in chosen)),
            self.counts[chosen],
            tuple(self.names[i] for i in chosen),
            self.superclasses and tuple(self.superclasses[i] for i in chosen),
        )

    def without_classes(self) -> LabelledRows:
        """No class at all, of inputs of the same shape: a split that is not used."""
        nothing = map_tree(lambda leaf: leaf[:0], self.inputs)
        return LabelledRows(nothing, self.counts[:0], (), self.superclasses and ())

    def _is_class(self, index: object) -> bool:
        whole = isinstance(index, Integral) and not isinstance(index, bool)
        return whole and 0 <= index < len(self)  # type: ignore[operator]

    def to(self, device: torch.device | str) -> LabelledRows:
        """The same rows on ``device``."""
        inputs = map_tree(lambda leaf: leaf.to(device), self.inputs)
        return replace(self, inputs=inputs)

    def with_rotations(self) -> LabelledRows:
        """These classes, and each rotated by 90, 180 and 270 degrees as a further class.

        The customary augmentation of Omniglot (Santoro et al., 2016); names end in ``/rot090``, and
        so do superclasses: a turned alphabet is another alphabet.
        """
        shapes = [tuple(leaf.shape) for _, leaf in named_leaves(self.inputs)]
        if not isinstance(self.inputs, Tensor) or len(shapes[0]) != 4 or len({*shapes[0][2:]}) > 1:
            raise ValueError(
                "with_rotations: needs square images (rows, channels, side, side); "
                f"found {', '.join(map(str, shapes))}."
            )
        rotated = [torch.rot90(self.inputs, k, (-2, -1)) for k in range(4)]
        inputs = torch.cat(rotated).contiguous()
        names, superclasses = (
            old and tuple(f"{n}/rot{90 * k:03d}" for k in range(4) for n in old)
            for old in (self.names, self.superclasses)
        )
        return LabelledRows(inputs, self.counts.repeat(4), names or (), superclasses)
