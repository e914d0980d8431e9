"""Rows grouped by class: the form in which every data set hands its splits to ``episodes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """Rows of one split, sorted by class, so that class ``c`` is one contiguous block.

    ``inputs``  (rows, ...): uint8 images (rows, channels, height, width) or floats; in memory,
                memory-mapped or on a GPU. uint8 is kept as it is and scaled to [0, 1] per episode.
    ``counts``  (classes,): rows of each class, at least one.
    ``names``   one unique name per class.
    """

    inputs: Tensor
    counts: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.counts):
            raise ValueError(
                f"Classes: {len(self.names)} names were given for {len(self.counts)} classes. "
                "Give one name per class."
            )
        if len(set(self.names)) != len(self.names):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})[:3]
            raise ValueError(f"Classes: class names must be unique, but {twice} stand twice.")
        empty = [n for n, c in zip(self.names, self.counts.tolist(), strict=True) if c < 1]
        if empty:
            raise ValueError(
                f"Classes: every class needs at least one row, but {empty[:3]} "
                f"({len(empty)} in all) are empty. Remove them, or add rows."
            )
        if int(self.counts.sum()) != len(self.inputs):
            raise ValueError(
                f"Classes: counts add up to {int(self.counts.sum())}, "
                f"but there are {len(self.inputs)} rows."
            )

    @staticmethod
    def from_labels(inputs: Tensor, labels: Sequence[object] | Tensor | np.ndarray) -> Classes:
        """Group ``inputs`` (n, ...) by ``labels`` (n,) of any kind; classes in sorted order."""
        values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if values.ndim != 1 or len(values) != len(inputs):
            raise ValueError(
                f"Classes: labels must have shape ({len(inputs)},), one per row of inputs; "
                f"found {values.shape}."
            )
        names, ids = np.unique(values, return_inverse=True)
        order = torch.from_numpy(np.argsort(ids, kind="stable")).to(inputs.device)
        counts = torch.from_numpy(np.bincount(ids, minlength=len(names)))
        return Classes(inputs[order], counts, tuple(str(n) for n in names))

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    @cached_property
    def starts(self) -> Tensor:
        """(classes,): the first row of each class."""
        return torch.cumsum(self.counts, 0) - self.counts

    def rows(self, index: int) -> Tensor:
        """All rows of class ``index``, a view."""
        start = int(self.starts[index])
        return self.inputs[start : start + int(self.counts[index])]

    def select(self, indices: Sequence[int]) -> Classes:
        """The classes at ``indices``, in that order."""
        return Classes(
            torch.cat([self.rows(i) for i in indices]),
            self.counts[list(indices)],
            tuple(self.names[i] for i in indices),
        )

    def to(self, device: torch.device | str) -> Classes:
        """The same rows on ``device``."""
        return Classes(self.inputs.to(device), self.counts, self.names)

    def with_rotations(self) -> Classes:
        """Every class also turned by 90, 180 and 270 degrees, as classes of their own.

        The customary augmentation of Omniglot (Santoro et al., 2016); names end in ``/rot090``.
        """
        if self.inputs.ndim != 4 or self.inputs.shape[-1] != self.inputs.shape[-2]:
            raise ValueError(
                "with_rotations: needs square images (rows, channels, side, side); "
                f"found {tuple(self.inputs.shape)}."
            )
        turned = [torch.rot90(self.inputs, k, (-2, -1)) for k in range(4)]
        names = [f"{n}/rot{90 * k:03d}" for k in range(4) for n in self.names]
        return Classes(torch.cat(turned).contiguous(), self.counts.repeat(4), tuple(names))
