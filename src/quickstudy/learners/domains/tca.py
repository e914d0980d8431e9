"""Transfer component analysis: directions of a kernel's space in which the means agree."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_sizes
from quickstudy.core import Learner
from quickstudy.learners.domains.aligning import AligningLearner, Alignment, Array, Map
from quickstudy.learners.metric.distances import gaussian


class TCA(AligningLearner):
    """Maps a support set to a base learner on its transfer components.

        K_ij = exp(-gamma |z_i - z_j|^2)      over all rows of sources and target, n of them
        W    = the leading solutions of   K H K w = lambda (K L K + mu I) w
        z    <- k(z, all rows) W

    H = I - 1/n centres. L = e e^T with e = 1/n_s for source rows and -1/n_t for target rows, so
    that w^T K L K w is the squared difference of the two means along w, and w^T K H K w the
    variance. So the components vary much, and their means differ little. What is a source, and what
    happens to labelled target rows and in plain tasks: see :class:`AligningLearner`.

    ``backbone``    inputs (n, ...) -> features (n, d), not changed.
    ``base``        the learner that is fitted to the components.
    ``components``  number of components; 10 by default.
    ``mu``          weight of the penalty on w; 1 by default.
    ``gamma``       of the kernel; None, the default, for 1 / d.

    State: ``map`` holds ``rows`` (n, d), all rows, ``weight`` (n, components) and ``gamma`` ();
    else as of :class:`AligningLearner`. Time grows with n^3, memory with n^2.

    Raises ValueError for settings that are not positive, and in ``adapt`` for fewer than 2 rows
    of the sources or of the target.

    Reference: Pan, Tsang, Kwok and Yang (2011), Domain Adaptation via Transfer Component Analysis,
    equation 8. Its W, here scaled so that W^T (K L K + mu I) W = I, has any scale.

    >>> import torch, quickstudy as qs
    >>> learner = qs.TCA(torch.nn.Identity(), components=2)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0], [2.0, 4.0], [3.0, 3.0]])
    >>> support = qs.examples(x, [0, 1, 1, -1, -1, -1], groups=[1, 1, 1, 0, 0, 0])
    >>> predictor = learner(support, qs.classification(ways=2))
    >>> learner.embed(predictor.state, x).shape
    torch.Size([6, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        base: Learner | None = None,
        components: int = 10,
        mu: float = 1.0,
        gamma: float | None = None,
    ) -> None:
        refuse_sizes("TCA", components=components)
        if not mu > 0 or not (gamma is None or gamma > 0):
            raise ValueError(
                f"TCA: mu and gamma must be positive; found mu={mu}, gamma={gamma}. "
                "Leave them out for 1 and one over the number of features."
            )
        super().__init__(backbone, base)
        self.components, self.mu, self.gamma = components, mu, gamma

    def align(self, source: Array, target: Array) -> Alignment:
        """Components of the source rows, and the numbers that give those of any row."""
        rows = np.concatenate([source, target])
        n, gamma = len(rows), self.gamma or 1 / max(1, rows.shape[1])
        kernel = gaussian(torch.from_numpy(rows), torch.from_numpy(rows), gamma).numpy()
        difference = np.repeat([1 / len(source), -1 / len(target)], [len(source), len(target)])
        of_means = kernel @ difference
        variance = kernel @ (kernel - kernel.mean(0))
        penalty = np.outer(of_means, of_means) + self.mu * np.eye(n)
        kept = min(self.components, n)
        _, found = scipy.linalg.eigh(variance, penalty, subset_by_index=[n - kept, n - 1])
        weight = found[:, ::-1]  # the leading one first
        # Eigenvectors have no sign of their own: let the mean of each component be positive.
        weight = weight * np.where(kernel.mean(0) @ weight < 0, -1.0, 1.0)
        aligned = kernel[: len(source)] @ weight
        return Alignment(aligned, {"rows": rows, "weight": weight, "gamma": np.asarray(gamma)})

    def mapped(self, target_map: Map, features: Tensor) -> Tensor:
        """The components (n, components) of target rows."""
        return gaussian(features, target_map["rows"], target_map["gamma"]) @ target_map["weight"]
