"""Density ratios computed by skada, as in its published benchmark."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.extras import optional


@dataclass(frozen=True)
class SkadaKLIEP:
    """``skada.KLIEPReweightAdapter`` of skada 0.6, in float64.

    ``gamma``    of the kernel, not relative to the variance.
    ``centres``  target rows that are centres, drawn with replacement.
    ``seed``     of that draw.

    Its steps along the gradient have the length of machine precision, so what it returns is the
    projection of equal multipliers. :class:`~.density_ratios.KLIEP` returns the optimum. Use this
    one to repeat what was published with skada. It ignores row weights, except for 0.

    Raises ValueError for numbers that are not positive, and ImportError without skada.
    """

    gamma: float = 1.0
    centres: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.gamma > 0 or self.centres < 1:
            raise ValueError(
                f"SkadaKLIEP: gamma must be positive, and centres at least 1; found gamma="
                f"{self.gamma}, centres={self.centres}."
            )

    def __call__(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Ratios (n,); 1 for target rows."""
        skada = optional("skada", "transfer", "SkadaKLIEP")
        adapter = skada.KLIEPReweightAdapter(
            gamma=self.gamma, n_centers=self.centres, random_state=self.seed
        )
        return _ratios(adapter, features, source, target)


@dataclass(frozen=True)
class SkadaKMM:
    """``skada.KMMReweightAdapter`` of skada 0.6, in float64.

    ``gamma``   of the kernel, not relative to the variance; 0 is 1 / d.
    ``solver``  "frank-wolfe", its default, which stops after 1000 steps far from the optimum, or
                "scipy", which reaches it in minutes for 1000 rows. :class:`~.density_ratios.KMM`
                reaches it in seconds.

    It ignores row weights, except for 0. Raises ValueError for a negative gamma and an unknown
    solver, and ImportError without skada.
    """

    gamma: float = 0.0
    solver: str = "frank-wolfe"

    def __post_init__(self) -> None:
        if not self.gamma >= 0 or self.solver not in ("frank-wolfe", "scipy"):
            raise ValueError(
                "SkadaKMM: gamma must be at least 0, and solver 'frank-wolfe' or 'scipy'; found "
                f"gamma={self.gamma}, solver={self.solver!r}."
            )

    def __call__(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Ratios (n,); 1 for target rows."""
        skada = optional("skada", "transfer", "SkadaKMM")
        adapter = skada.KMMReweightAdapter(gamma=self.gamma or None, solver=self.solver)
        return _ratios(adapter, features, source, target)


def _ratios(adapter: Any, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
    own, other = (features[w > 0].detach().double().cpu().numpy() for w in (source, target))
    x = np.concatenate([own, other])
    domains = np.repeat([1, -2], [len(own), len(other)])  # skada: the target's is negative
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Maximum iteration reached")
        found = adapter.fit(x, sample_domain=domains).compute_weights(x, sample_domain=domains)
    ratios = torch.from_numpy(np.asarray(found)[: len(own)]).to(features)
    return features.new_ones(len(features)).masked_scatter(source > 0, ratios)
