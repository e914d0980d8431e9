"""Your own X and y, in memory or in one ``.npz`` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.shown import told
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
    for 2 to 5 classes, rows of each. uint8 is kept, and scaled to
    [0, 1] when tasks are made; every other type becomes float32. Images have their channels first:
    (n, channels, height, width).

    Raises ValueError for other shapes, values that are not finite, or a single class. To
    choose the splits yourself, make three ``LabelledRows`` and a ``Dataset`` of them.
    """
    return split_dataset(card("arrays"), _labelled(X, y), fractions, seed, ways)


def _labelled(rows: np.ndarray | Tensor, labels: Labels) -> LabelledRows:
    inputs = _inputs(rows)
    given = labels if isinstance(labels, Tensor) else np.asarray(labels)
    return LabelledRows.from_labels(inputs, given)


def _inputs(rows: np.ndarray | Tensor) -> Tensor:
    found = rows if isinstance(rows, Tensor) else np.ascontiguousarray(rows)
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "biuf":
            raise ValueError(
                f"arrays: X must hold numbers; found dtype {found.dtype}. "
                "Turn texts and objects into numbers first."
            )
        array = found if found.dtype in (np.uint8, np.float32) else found.astype(np.float32)
        found = torch.from_numpy(array.copy() if not array.flags.writeable else array)
    elif found.dtype not in (torch.uint8, torch.float32):
        found = found.to(torch.float32)
    if found.ndim < 2 or found.numel() == 0:
        raise ValueError(
            f"arrays: X must have shape (rows, ...), with features or pixels; found "
            f"{tuple(found.shape)}."
        )
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise ValueError("arrays: X holds NaN or infinity. Fill or remove those rows.")
    return found
