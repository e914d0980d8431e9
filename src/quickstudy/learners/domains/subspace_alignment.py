"""Subspace alignment: turn the principal axes of the sources into those of the target."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_sizes
from quickstudy.base.extras import optional
from quickstudy.core import Learner
from quickstudy.learners.domains.aligning import (
    AligningLearner,
    Alignment,
    Array,
    Map,
    domains_of,
)


class SubspaceAlignment(AligningLearner):
    """Maps a support set to a base learner in the subspace of the target's principal components.

        z_s <- (z_s - mean_s) P_s (P_s^T P_t),     z_t <- (z_t - mean_t) P_t

    P_s and P_t (d, components) are the leading principal axes of source and target rows. Computed
    by skada's ``SubspaceAlignmentAdapter``. What is a source, and what happens to labelled target
    rows and in plain tasks: see :class:`AligningLearner`.

    ``backbone``    inputs (n, ...) -> features (n, d), not changed.
    ``base``        the learner that is fitted to the aligned rows.
    ``components``  number of principal axes; None, the default, for as many as rows and features
                    allow.

    State: ``map`` holds ``mean`` (d,) and ``axes`` (d, components) of the target; else as of
    :class:`AligningLearner`.

    Raises ValueError for fewer than 1 component, and in ``adapt`` for more than the features or
    the rows of one side, and for fewer than 2 rows of the sources or of the target; ImportError
    without the extra ``transfer``.

    Reference: Fernando, Habrard, Sebban and Tuytelaars (2013), Unsupervised Visual Domain
    Adaptation Using Subspace Alignment, equations 1 to 3.
    Differs from the paper in centring source and target apart, and in leaving their scale as it is.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SubspaceAlignment(torch.nn.Identity(), components=1)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    >>> support = qs.examples(x, [0, 1, 1, -1, -1, -1], groups=[1, 1, 1, 0, 0, 0])
    >>> predictor = learner(support, qs.classification(ways=2))
    >>> learner.embed(predictor.state, x).shape
    torch.Size([6, 1])
    """

    def __init__(
        self, backbone: nn.Module, base: Learner | None = None, components: int | None = None
    ) -> None:
        if components is not None:
            refuse_sizes("SubspaceAlignment", components=components)
        super().__init__(backbone, base)
        self.components = components

    def align(self, source: Array, target: Array) -> Alignment:
        """Source rows in the target's axes, and these axes."""
        most = min(*source.shape, len(target))
        if self.components is not None and self.components > most:
            raise ValueError(
                f"SubspaceAlignment: {self.components} components asked, but {len(source)} rows of "
                f"sources and {len(target)} of the target with {source.shape[1]} features have at "
                f"most {most}. Lower components, or give more rows."
            )
        skada = optional("skada", "transfer", "SubspaceAlignment")
        # The full decomposition for every size: the approximate one draws random numbers.
        adapter = skada.SubspaceAlignmentAdapter(self.components or most, random_state=0)
        domains = domains_of(source, target)
        adapter.fit(np.concatenate([source, target]), sample_domain=domains)
        of_sources = domains[: len(source)]
        aligned = adapter.transform(source, sample_domain=of_sources, allow_source=True)
        axes = adapter.pca_target_
        return Alignment(aligned, {"mean": axes.mean_, "axes": axes.components_.T})

    def mapped(self, target_map: Map, features: Tensor) -> Tensor:
        """Target rows in the target's axes (n, components)."""
        return (features - target_map["mean"]) @ target_map["axes"]
