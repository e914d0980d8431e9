"""Linear optimal transport: the shortest linear map from the source's Gaussian to the target's."""

from __future__ import annotations

import numpy as np
from torch import nn

from quickstudy.base.extras import optional
from quickstudy.core import Learner
from quickstudy.learners.domains.aligning import (
    AligningLearner,
    Alignment,
    Array,
    domains_of,
)


class LinearTransport(AligningLearner):
    """Maps a support set to a base learner on source rows that are moved to the target.

        A   = C_s^(-1/2) (C_s^(1/2) C_t C_s^(1/2))^(1/2) C_s^(-1/2)
        z_s <- mean_t + (z_s - mean_s) A,     z_t as they are

    Of all maps from one Gaussian to another, this one (Monge's) moves the rows least. C_s and C_t
    are the covariances plus ``regularisation`` times the identity. Computed by skada's
    ``LinearOTMappingAdapter``, which uses POT. What is a source, and what happens to labelled
    target rows and in plain tasks: see :class:`AligningLearner`.

    ``backbone``        inputs (n, ...) -> features (n, d), not changed.
    ``base``            the learner that is fitted to the moved rows.
    ``regularisation``  added to the variances; 1e-6 by default. Constant features need it.
    ``centred``         whether the means move as well; with False both count as 0.

    State: as of :class:`AligningLearner`; ``map`` is empty.

    Raises ValueError for a regularisation that is not positive, and in ``adapt`` for fewer than 2
    rows of the sources or of the target; ImportError without the extra ``transfer``.

    Reference: Knott and Smith (1984), On the optimal mapping of distributions; for adaptation
    Flamary, Lounici and Ferrari (2019), Concentration bounds for linear Monge mapping estimation
    and optimal transport domain adaptation.

    >>> import torch, quickstudy as qs
    >>> learner = qs.LinearTransport(torch.nn.Identity())
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    >>> support = qs.examples(x, [0, 1, 1, -1, -1, -1], groups=[1, 1, 1, 0, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([6, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        base: Learner | None = None,
        regularisation: float = 1e-6,
        centred: bool = True,
    ) -> None:
        if not regularisation > 0:
            raise ValueError(
                f"LinearTransport: regularisation must be positive; found {regularisation}. "
                "Leave it out for 1e-6."
            )
        super().__init__(backbone, base)
        self.regularisation, self.centred = regularisation, centred

    def align(self, source: Array, target: Array) -> Alignment:
        """Source rows, moved."""
        skada = optional("skada", "transfer", "LinearTransport")
        adapter = skada.LinearOTMappingAdapter(reg=self.regularisation, bias=self.centred)
        domains = domains_of(source, target)
        adapter.fit(np.concatenate([source, target]), sample_domain=domains)
        of_sources = domains[: len(source)]
        moved = adapter.transform(source, sample_domain=of_sources, allow_source=True)
        return Alignment(moved, {})
