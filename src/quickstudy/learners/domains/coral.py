"""CORAL: give the source rows the mean and the covariance of the target rows."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from quickstudy.base.extras import optional
from quickstudy.core import Learner
from quickstudy.learners.domains.aligning import (
    AligningLearner,
    Alignment,
    Array,
    Map,
    domains_of,
)

LEAST_SHRINKAGE = 0.01
"""The share of the identity that makes a singular covariance invertible."""

_CONSTANT = 1e-12
"""Variance, as a share of the largest, below which a direction counts as constant."""

_NO_SHRINKAGE = 1e-6
"""Shrinkage of Ledoit and Wolf below which it counts as none: of two rows, it is 0."""


class CORAL(AligningLearner):
    """Maps a support set to a base learner on source rows with the target's mean and covariance.

        z_s <- (z_s - mean_s) C_s^(-1/2) C_t^(1/2),     z_t <- z_t - mean_t

    C_s and C_t are the covariances of source and target, shrunk towards a multiple of the identity.
    Computed by skada's ``CORALAdapter``. What is a source, and what happens to labelled target rows
    and in plain tasks: see :class:`AligningLearner`.

    ``backbone``   inputs (n, ...) -> features (n, d), not changed.
    ``base``       the learner that is fitted to the aligned rows.
    ``shrinkage``  share of the identity in both covariances, in [0, 1]; None, the default, for that
                   of Ledoit and Wolf on features of unit variance, as in skada.
    ``centred``    whether the means are taken off. With False the features count as centred
                   already, so that a difference of means stays.

    State: ``map`` holds ``mean`` (d,), the target's; else as of :class:`AligningLearner`.

    Where features are constant over the rows of a side, or combinations of others, its covariance
    has no inverse, and by rounding no root. Without any shrinkage of it, both are then shrunk by
    0.01; where all features of one side are constant, rows are only centred. A warning says so.

    Raises ValueError for a shrinkage outside of [0, 1], and in ``adapt`` for fewer than 2 rows
    of the sources or of the target; ImportError without the extra ``transfer``.

    Reference: Sun, Feng and Saenko (2016), Return of Frustratingly Easy Domain Adaptation.
    Differs from the paper in the shrinkage, where it adds the identity to both covariances, and in
    moving the means.

    >>> import torch, quickstudy as qs
    >>> learner = qs.CORAL(torch.nn.Identity())
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    >>> support = qs.examples(x, [0, 1, 1, -1, -1, -1], groups=[1, 1, 1, 0, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([6, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        base: Learner | None = None,
        shrinkage: float | None = None,
        centred: bool = True,
    ) -> None:
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ValueError(
                f"CORAL: shrinkage must be in [0, 1]; found {shrinkage}. Leave it out for that of "
                "Ledoit and Wolf."
            )
        super().__init__(backbone, base)
        self.shrinkage, self.centred = shrinkage, centred

    def align(self, source: Array, target: Array) -> Alignment:
        """Source rows with the second moments of the target, and the mean of the target."""
        skada = optional("skada", "transfer", "CORAL")
        mean, features = {"mean": target.mean(0) * self.centred}, source.shape[1]
        constant = [_constant_directions(rows, self.centred) for rows in (source, target)]
        if features in constant:
            _tell(constant, features, "rows of sources are only centred")
            return Alignment(source - source.mean(0) * self.centred, mean)
        singular = [
            flat and self._shrinkage(rows) < _NO_SHRINKAGE
            for flat, rows in zip(constant, (source, target), strict=True)
        ]
        if any(singular):  # of the target, rounding leaves no root of its covariance
            _tell(constant, features, f"both covariances are shrunk by {LEAST_SHRINKAGE}")
            reg: str | float = LEAST_SHRINKAGE
        else:
            reg = "auto" if self.shrinkage is None else self.shrinkage
        adapter = skada.CORALAdapter(reg=reg, assume_centered=not self.centred)
        domains = domains_of(source, target)
        adapter.fit(np.concatenate([source, target]), sample_domain=domains)
        of_sources = domains[: len(source)]
        return Alignment(
            adapter.transform(source, sample_domain=of_sources, allow_source=True), mean
        )

    def _shrinkage(self, rows: Array) -> float:
        """The share of the identity in the covariance of rows of one side."""
        if self.shrinkage is not None:
            return self.shrinkage
        unit = StandardScaler(with_mean=self.centred).fit_transform(rows)
        return float(ledoit_wolf(unit)[1])

    def mapped(self, target_map: Map, features: Tensor) -> Tensor:
        """Target rows, centred."""
        return features - target_map["mean"]


def _constant_directions(rows: Array, centred: bool) -> int:
    """In how many directions of the feature space the rows do not vary."""
    variances = np.linalg.svd(rows - rows.mean(0) * centred, compute_uv=False) ** 2
    size = np.square(rows).sum() if len(rows) else 0.0  # rounding of the mean is no variance
    least = max(_CONSTANT * max(variances.max(initial=0.0), 1e-16 * size), np.finfo(float).tiny)
    return int(rows.shape[1] - (variances > least).sum())


def _tell(constant: list[int], features: int, done: str) -> None:
    warnings.warn(
        f"CORAL: covariances of sources and target must have full rank, but of {features} "
        f"directions of the features {constant[0]} are constant over the sources and {constant[1]} "
        f"over the target; {done}. Leave constant features out, or give more rows.",
        stacklevel=2,
    )
