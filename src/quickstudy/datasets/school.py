"""School: examination scores of pupils in 139 schools of London, one task for each school."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from quickstudy.answers.specs import regression
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.limits import ArchiveError
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks

COLUMNS = 28


def load(root: str | Path | None = None) -> NamedTasks:
    """Tasks "school_001" to "school_139": inputs (n, 28) of a pupil, and the score (n, 1).

    Columns describe the year, the pupil and the school, as in the file: two shares in percent, one
    of pupils with free meals and one in the highest band of ability, the others zeros and ones. The
    last is 1 in all rows. Scores are from 1 to 70. 22 to 251 pupils a school, 15,362 in all.

    ``root``  holds ``school/school.mat``.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises, and ArchiveError for a
    file without these tables.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    data = read_verified(root, "school", "school.mat")
    try:
        table = loadmat(io.BytesIO(data))
        pairs = list(zip(table["X"].ravel(), table["Y"].ravel(), strict=True))
        if any(x.shape != (len(y), COLUMNS) for x, y in pairs):
            raise ValueError(f"rows of other than {COLUMNS} columns")
    except (KeyError, AttributeError, TypeError, ValueError, MatReadError) as error:
        raise ArchiveError(
            f"school.mat: must hold tables X and Y for each school; found {error}. Get it again."
        ) from error
    spec = regression(1)
    return domains(
        {
            f"school_{number:03d}": (_reals(x), _reals(y), spec)
            for number, (x, y) in enumerate(pairs, 1)
        }
    )


def _reals(table: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(table.astype(np.float32))
