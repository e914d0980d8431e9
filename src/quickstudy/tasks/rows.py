"""Rows grouped by class: the type of data set splits, from which ``episodes`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.trees import concatenate, map_tree, named_leaves, rows
from quickstudy.base.words import count
from quickstudy.tasks.examples import check_pixels


@dataclass(frozen=True, repr=False)
class LabelledRows:
    """The rows of one split, sorted by class, so that each class is one contiguous block.

    ``inputs``  (rows, ...): uint8 images (rows, channels, height, width) or floats, or a tree of
                tensors (token ids and mask); in memory, memory-mapped or on a GPU. uint8 is stored
                as such and scaled to [0, 1] in each episode; in a tree, only images may be uint8.
    ``counts``  (classes,): number of rows per class, at least one.
    ``names``   one unique name per class.
    ``superclasses``  the larger class that each class belongs to (the alphabet of a character), or
                None; :func:`quickstudy.episodes` can draw tasks ``within`` them.
    """

    inputs: Any
    counts: Tensor
    names: tuple[str, ...]
    superclasses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
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
        check_pixels(self.inputs, "LabelledRows")
        for name, leaf in named_leaves(self.inputs, "inputs"):
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
        """Group ``inputs`` (n, ...) by ``labels`` (n,) of any kind; classes in sorted order."""
        values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        n = rows(inputs)
        if values.ndim != 1 or len(values) != n:
            raise ValueError(
                f"LabelledRows: labels must have shape ({n},), one per row of inputs; "
                f"found {values.shape}."
            )
        names, ids = np.unique(values, return_inverse=True)
        order = torch.from_numpy(np.argsort(ids, kind="stable"))
        counts = torch.from_numpy(np.bincount(ids, minlength=len(names)))
        ordered = map_tree(lambda leaf: leaf[order.to(leaf.device)], inputs)
        return LabelledRows(ordered, counts, tuple(str(name) for name in names))

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
        """The classes at ``indices``, in that order; possibly none."""
        nothing = map_tree(lambda leaf: leaf[:0], self.inputs)
        return LabelledRows(
            concatenate(nothing, *(self.rows(i) for i in indices)),
            self.counts[list(indices)],
            tuple(self.names[i] for i in indices),
            self.superclasses and tuple(self.superclasses[i] for i in indices),
        )

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
