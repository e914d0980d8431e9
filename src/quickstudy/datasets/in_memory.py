"""Your own X and y, in memory or in one ``.npz`` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from quickstudy.base.arrays import as_tensors
from quickstudy.base.shown import told
from quickstudy.base.trees import shapes
from quickstudy.datasets.archives import read_archive
from quickstudy.datasets.dataset import Dataset, split_dataset
from quickstudy.datasets.limits import Limits
from quickstudy.datasets.registry import card
from quickstudy.tasks.rows import LabelledRows

_LIMITS = Limits(members=10_000, file_bytes=2**33, total_bytes=2**34)

Labels = Sequence[object] | np.ndarray | Tensor


def load(
    root: str | Path | None = None,
    *,
    fractions: Sequence[float] | None = None,
    split_seed: int = 0,
    ways: int | None = None,
) -> Dataset:
    """:func:`arrays` of the entries ``X`` and ``y`` of the ``.npz`` file ``root``."""
    return split_dataset(card("arrays"), load_classes(root), fractions, split_seed, ways)


def load_classes(root: str | Path | None = None) -> LabelledRows:
    """All classes of the ``.npz`` file ``root``, without a split."""
    if root is None:
        raise ValueError(
            "arrays: give a .npz file with X and y as root, or call datasets.arrays(X, y)."
        )
    path = Path(root).expanduser()
    if path.is_dir():
        raise IsADirectoryError(
            f"{path}: must be a .npz file; it is a folder. For folders of images, one for each "
            "class, load the data set folder."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    try:
        for _ in read_archive(path, lambda name: False, _LIMITS):
            pass  # refuses bombs, which numpy would unpack
        with np.load(path, allow_pickle=False) as stored:
            rows, labels = stored["X"], stored["y"]
    except PermissionError:
        raise
    except Exception as error:  # numpy may raise anything for damaged bytes
        raise ValueError(
            f"{path}: must be a .npz file with arrays named X and y, without pickled objects "
            f"({type(error).__name__}: {told(error)}). Write it with numpy.savez(path, X=X, y=y)."
        ) from error
    try:
        return _labelled(rows, labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def arrays(
    X: np.ndarray | Tensor,
    y: Labels,
    *,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    ways: int | None = None,
) -> Dataset:
    """Rows ``X`` (n, ...) with class labels ``y`` (n,) of any type as a data set.

    Whole classes are split at random, as :func:`~quickstudy.datasets.dataset.split_dataset` does;
    for 2 to 5 classes, rows of each. Pixels are kept as uint8, and scaled to [0, 1] when tasks are
    made; reals become torch's default type, and other integers stay: they are ids of tokens, or
    numbers for :class:`quickstudy.backbones.MLP`. Images have their channels first:
    (n, channels, height, width).

    Raises ValueError for other shapes, values that are not finite, labels that are unknown or real
    numbers, or a single class. To choose the splits yourself, make three ``LabelledRows`` and a
    ``Dataset`` of them.
    """
    return split_dataset(card("arrays"), _labelled(X, y), fractions, seed, ways)


def _labelled(rows: np.ndarray | Tensor, labels: Labels) -> LabelledRows:
    inputs = as_tensors(rows, "arrays: X")
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or inputs.numel() == 0:
        raise ValueError(
            f"arrays: X must have shape (rows, ...), with features or pixels; found "
            f"{shapes(inputs)}. Give one row for each label."
        )
    return LabelledRows.from_labels(inputs, labels)
