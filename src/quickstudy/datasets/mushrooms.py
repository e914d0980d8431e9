"""Mushrooms: edible or poisonous; those with enlarging stalks and those with tapering ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quickstudy.datasets.domains import Domains, of_arrays, read_verified, svmlight

COLUMNS = 126
ENLARGING, TAPERING = 52, 53
"""Columns of the two stalk shapes, counted from 0; the file counts from 1."""


def load(root: str | Path | None = None) -> Domains:
    """Domains "enlarging" (the usual source) and "tapering": inputs (n, 126) of zeros and ones.

    Class 1 is poisonous, 0 edible.

    ``root``  holds ``mushrooms/agaricus.txt.train`` and ``agaricus.txt.test``, or these with
              ".gz"; they are one table that was split for another purpose, and are joined again.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    parts = [
        svmlight(read_verified(root, "mushrooms", f"agaricus.txt.{part}"), COLUMNS)
        for part in ("train", "test")
    ]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    return of_arrays(
        "mushrooms",
        {
            "enlarging": (x[x[:, ENLARGING] == 1], y[x[:, ENLARGING] == 1]),
            "tapering": (x[x[:, TAPERING] == 1], y[x[:, TAPERING] == 1]),
        },
        ways=2,
    )
