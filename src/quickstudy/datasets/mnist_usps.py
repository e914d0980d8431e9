"""Handwritten digits of two origins: MNIST and USPS."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from quickstudy.datasets.domains import Domains, of_arrays, read_verified
from quickstudy.datasets.limits import ArchiveError

SIDE = 28


def load(root: str | Path | None = None) -> Domains:
    """Domains "mnist" and "usps": 1,000 pictures each, (n, 1, 28, 28) in [0, 1], and digits.

    ``root``  holds ``mnist_usps/mnist_usps.npz``.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises, and ArchiveError for a
    file without these pictures.
    """
    data = read_verified(root, "mnist_usps", "mnist_usps.npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {
                domain: (_pictures(file[f"x{side}"]), file[f"y{side}"].ravel())
                for domain, side in (("mnist", "s"), ("usps", "t"))
            }
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ArchiveError(
            f"mnist_usps.npz: must hold pictures of {SIDE} by {SIDE} of two origins; found "
            f"{error}. Get it again."
        ) from error
    return of_arrays("mnist_usps", arrays, ways=10)


def _pictures(flat: np.ndarray) -> np.ndarray:
    """(n, 1, 28, 28) in [0, 1] of pixels (n, 784) in 0…255."""
    return flat.reshape(-1, 1, SIDE, SIDE).astype(np.float32) / 255
