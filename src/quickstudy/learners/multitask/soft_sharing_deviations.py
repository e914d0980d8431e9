"""How the networks of known tasks deviate from a common one: mean and covariance, by parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quickstudy.learners.gradient.descend import Weights


class Deviations:
    """The mean m and the covariance C of v over the known tasks, for each parameter by itself.

        C = (1 - shrinkage) * p / tr(S) * S + shrinkage * I,      S = mean_t (v_t - m)(v_t - m)'

    for a parameter of p entries: the identity where ``shrinkage`` is 1 or all v_t are equal, and
    otherwise a matrix whose mean variance is 1. It has the rank of the tasks besides the identity,
    so it is never written out.

    ``v``  (tasks, ...) by name; without tasks m = 0 and C = I. C counts as a constant in training.
    """

    def __init__(self, v: Mapping[str, Tensor], shrinkage: float) -> None:
        self.means = {name: each.mean(0) for name, each in v.items()}
        self._roots = {} if shrinkage == 1 else {n: _Root(each, shrinkage) for n, each in v.items()}

    def shifted(self, name: str, start: Tensor) -> Tensor:
        """``start`` + m."""
        return start + self.means[name] if name in self.means else start

    def scaled(self, u: Weights) -> Weights:
        """C^(1/2) u, whose (C^(1/2) u)' C⁻¹ (C^(1/2) u) = |u|²."""
        return {
            name: self._roots[name](each) if name in self._roots else each
            for name, each in u.items()
        }


class _Root:
    """u -> C^(1/2) u, by the eigenvectors q_i of the (tasks, tasks) products of v.

    Those of S are V'q_i / |V'q_i|, with V (tasks, p) of the centred v.
    """

    def __init__(self, v: Tensor, shrinkage: float) -> None:
        with torch.no_grad():
            tasks = len(v)
            self._centred = (v - v.mean(0)).flatten(1)
            squares, self._vectors = torch.linalg.eigh(self._centred @ self._centred.mT)
            total = squares.clamp_min(0).sum()
            resolution = tasks * torch.finfo(v.dtype).eps * total
            real = (squares > resolution) & (total > torch.finfo(v.dtype).tiny)
            p = self._centred.shape[1]
            variances = (1 - shrinkage) * p * squares / torch.where(total > 0, total, 1.0)
            factors = (variances.clamp_min(0) + shrinkage).sqrt() - shrinkage**0.5
            self._factors = torch.where(real, factors / torch.where(real, squares, 1.0), 0.0)
            # Without any deviation, the covariance is the identity.
            self._rest = torch.where(real.any(), shrinkage**0.5, 1.0).to(v.dtype)

    def __call__(self, u: Tensor) -> Tensor:
        along = self._vectors.mT @ (self._centred @ u.flatten())
        moved = self._centred.mT @ (self._vectors @ (self._factors * along))
        result: Tensor = self._rest * u + moved.view_as(u)
        return result
