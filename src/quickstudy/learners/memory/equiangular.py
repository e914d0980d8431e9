"""Equal length and maximally equiangular vectors (ELMES): labels of which none is special."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def equiangular(labels: int, size: int) -> Tensor:
    """(labels, size): vectors of length 1 whose angles are all equal, and as large as can be.

        M = √(C / (C - 1)) (I - 1 1ᵀ / C),   vectors = M Uᵀ,   U (size, C) with UᵀU = I

    for C = ``labels``. The cosine of any two is -1 / (C - 1), and they sum to 0: they are the
    corners of a regular simplex. Any permutation of them is a rotation, so that a network which
    reads them as labels has no reason to prefer one. U is the same at each call.

    Raises ValueError for fewer than 2 labels, and for a size below ``labels``.

    Reference: Fifty et al. (2024), Context-Aware Meta-Learning, sections 3 and 4.

    >>> vectors = equiangular(3, 4)
    >>> [round(float(c), 6) for c in (vectors @ vectors.mT)[0]]
    [1.0, -0.5, -0.5]
    """
    if labels < 2 or size < labels:
        raise ValueError(
            f"equiangular: needs at least 2 labels, and a size of at least as many; found "
            f"labels={labels}, size={size}."
        )
    simplex = np.eye(labels) - 1 / labels
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, labels)))
    vectors = math.sqrt(labels / (labels - 1)) * simplex @ basis.T
    return torch.from_numpy(vectors).to(torch.get_default_dtype())
