"""Entropic optimal transport: move each source row to the mean of the target rows it is sent to."""

from __future__ import annotations

import warnings

import numpy as np
from torch import nn

from quickstudy.backbones.features import refuse_sizes
from quickstudy.base.extras import optional
from quickstudy.core import Learner
from quickstudy.learners.domains.aligning import (
    AligningLearner,
    Alignment,
    Array,
    domains_of,
)


class EntropicTransport(AligningLearner):
    """Maps a support set to a base learner on source rows that are moved onto the target rows.

        P   = argmin_P  sum_ij P_ij c_ij + entropy sum_ij P_ij log P_ij
        z_i <- sum_j P_ij z_j / sum_j P_ij,     z_t as they are

    P (n_s, n_t) has rows that sum to 1/n_s and columns that sum to 1/n_t.

    The costs c are squared distances over their median. Computed by skada's
    ``EntropicOTMappingAdapter``, which uses Sinkhorn's iteration of POT. What is a source, and what
    happens to labelled target rows and in plain tasks: see :class:`AligningLearner`.

    ``backbone``  inputs (n, ...) -> features (n, d), not changed.
    ``base``      the learner that is fitted to the moved rows.
    ``entropy``   weight of the entropy; 0.1 by default. The larger, the closer all rows come to the
                  target's mean; where it is too small, Sinkhorn's iteration underflows.
    ``steps``     most iterations; 1000 as in POT.

    State: as of :class:`AligningLearner`; ``map`` is empty.

    Warns (RuntimeWarning) where the iteration does not converge.

    Raises ValueError for an entropy or steps that are not positive, and in ``adapt`` for fewer
    than 2 rows of the sources or of the target and where all rows are equal; ImportError without
    the extra ``transfer``.

    Reference: Courty, Flamary, Tuia and Rakotomamonjy (2017), Optimal Transport for Domain
    Adaptation, sections 4 and 5, without the regularisation by classes.

    >>> import torch, quickstudy as qs
    >>> learner = qs.EntropicTransport(torch.nn.Identity())
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    >>> support = qs.examples(x, [0, 1, 1, -1, -1, -1], groups=[1, 1, 1, 0, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([6, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        base: Learner | None = None,
        entropy: float = 0.1,
        steps: int = 1000,
    ) -> None:
        refuse_sizes("EntropicTransport", steps=steps)
        if not entropy > 0:
            raise ValueError(
                f"EntropicTransport: entropy must be positive; found {entropy}. Leave it out for "
                "0.1."
            )
        super().__init__(backbone, base)
        self.entropy, self.steps = entropy, steps

    def align(self, source: Array, target: Array) -> Alignment:
        """Source rows, moved."""
        skada = optional("skada", "transfer", "EntropicTransport")
        rows, domains = np.concatenate([source, target]), domains_of(source, target)
        if not (rows != rows[0]).any():
            raise ValueError(
                "EntropicTransport: needs rows that differ, since costs are relative to their "
                "median distance; found that all are equal. Leave constant features out."
            )
        adapter = skada.EntropicOTMappingAdapter(
            reg_e=self.entropy, norm="median", max_iter=self.steps
        )
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            adapter.fit(rows, sample_domain=domains)
        if any("converge" in str(each.message) for each in found):
            warnings.warn(
                "EntropicTransport: Sinkhorn's iteration should converge, but did not in "
                f"{self.steps} steps, so that rows are moved by an approximation. Raise steps or "
                "entropy.",
                RuntimeWarning,
                stacklevel=2,
            )
        moved = adapter.transform(source, sample_domain=domains[: len(source)], allow_source=True)
        return Alignment(moved, {})
