"""Deep adaptation network: train a network whose features agree in the mean, for many kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.learners.domains.deep_alignment import SGD_WITH_MOMENTUM, DeepAligner, Side
from quickstudy.learners.gradient.descend import Update, Weights
from quickstudy.learners.metric.distances import squared_euclidean

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Factors on the mean squared distance, one for each kernel."""


def squared_mmd(
    source: Tensor,
    target: Tensor,
    source_weights: Tensor,
    target_weights: Tensor,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
) -> Tensor:
    """The squared maximum mean discrepancy of rows (n, d) and (m, d), unbiased, so also negative.

        sum_{i != j} k(s_i, s_j) / n (n - 1) + sum_{i != j} k(t_i, t_j) / m (m - 1)
            - 2 sum_{i, j} k(s_i, t_j) / n m
        k(a, b) = mean over the bandwidths h of exp(-|a - b|^2 / h D)

    D is the mean squared distance of two different rows of both sets together; it counts as a
    constant. A row of weight 2 counts as two rows. A side of fewer than 2 rows has no pairs: its
    part is 0.

    Reference: Gretton et al. (2012), A Kernel Two-Sample Test, equation 3 (lemma 6).
    """
    rows, n = torch.cat([source, target]), len(source)
    weights = torch.cat([source_weights, target_weights])
    squares = squared_euclidean(rows, rows).clamp_min(0)
    # A row is at distance 0 from itself, whatever rounding says.
    squares = squares * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    total = weights.sum()
    scale = (weights @ squares.detach() @ weights) / _pairs(total)
    scale = scale.where(scale > 0, 1.0)
    kernel = torch.stack([(-squares / (h * scale)).exp() for h in bandwidths]).mean(0)
    parts = [
        torch.where(w.sum() < 2, 0.0, w @ k @ w - w.sum()) / _pairs(w.sum())  # k(a, a) = 1
        for w, k in ((source_weights, kernel[:n, :n]), (target_weights, kernel[n:, n:]))
    ]
    across = source_weights @ kernel[:n, n:] @ target_weights
    both = (source_weights.sum() * target_weights.sum()).clamp_min(torch.finfo(rows.dtype).tiny)
    return parts[0] + parts[1] - 2 * across / both


def _pairs(total: Tensor) -> Tensor:
    """The number of ordered pairs of different rows; 1 where there are none."""
    pairs = total * (total - 1)
    return pairs.where(total >= 2, 1.0)


class DAN(DeepAligner):
    """Maps a support set to a network whose features and outputs agree in the mean, by kernels.

        L = loss of the labelled rows + strength * (MMD^2(features) + MMD^2(outputs))

    MMD is the maximum mean discrepancy of source and target rows under the mean of several Gaussian
    kernels, see :func:`squared_mmd`. It is the paper's loss on the last layers.

    ``backbone``    inputs (n, ...) -> features (n, d), where training starts; its frozen
                    parameters do not move.
    ``steps``       number of steps; 100 by default.
    ``rate``        learning rate at the start, falling as rate / (1 + 10 p)^0.75 over the steps, as
                    in the paper; 0.01 by default.
    ``strength``    of the discrepancy; 1 by default.
    ``bandwidths``  of the kernels, as factors on the mean squared distance.
    ``update``      update rule; momentum of 0.9 by default, as in the paper.
    ``batch``       rows of each side in a step; None, the default, for all.
    ``seed``        of the order of batches.

    State, and what happens to labelled target rows and in plain tasks: see :class:`DeepAligner`.

    Raises ValueError for numbers out of range, and in ``adapt`` for source rows without any row of
    the target, and for weights that do not stay finite.

    Reference: Long, Cao, Wang and Jordan (2015), Learning Transferable Features with Deep
    Adaptation Networks, equations 1 to 4.
    Differs from the paper in equal weights of the kernels, which it learns by a quadratic program,
    in the unbiased estimate over all pairs of a batch, where it takes one in linear time, in mean
    instead of median distances, and in aligning the last two layers instead of three.

    >>> import torch, quickstudy as qs
    >>> learner = qs.DAN(qs.backbones.MLP(in_features=2), steps=5)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0]])
    >>> support = qs.examples(x, [0, 1, -1, -1], groups=[1, 1, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([4, 2])
    """

    annealed = True
    reads_pairs = True

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 100,
        rate: float = 0.01,
        strength: float = 1.0,
        bandwidths: tuple[float, ...] = BANDWIDTHS,
        update: Update = SGD_WITH_MOMENTUM,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        bandwidths = tuple(bandwidths)
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError(
                f"DAN: bandwidths must be positive numbers, 1 or more; found {bandwidths}. "
                f"Leave them out for {BANDWIDTHS}."
            )
        super().__init__(backbone, steps, rate, strength, update, batch, seed)
        self.bandwidths = bandwidths

    def difference(self, source: Side, target: Side, weights: Weights, progress: float) -> Tensor:
        """The discrepancy of the features and of the outputs."""
        of_features, of_outputs = (
            squared_mmd(s, t, source.weights, target.weights, self.bandwidths)
            for s, t in ((source.features, target.features), (source.outputs, target.outputs))
        )
        return self.strength * (of_features + of_outputs)
