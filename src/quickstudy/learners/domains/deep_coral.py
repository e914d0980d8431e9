"""Deep CORAL: train a network whose outputs have the same covariance on source and target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.learners.domains.deep_alignment import SGD_WITH_MOMENTUM, DeepAligner, Side
from quickstudy.learners.gradient.descend import Update, Weights


def coral_distance(
    source: Tensor, target: Tensor, source_weights: Tensor, target_weights: Tensor
) -> Tensor:
    """|C_s - C_t|^2 / (4 d^2), where C are the covariances of rows (n, d) and (m, d).

    A row of weight 2 counts as two rows. C has the factor 1 / (n - 1), n being the sum of the
    weights, and is 0 where that is below 2.
    """
    d = source.shape[-1]
    gap = _covariance(source, source_weights) - _covariance(target, target_weights)
    return gap.square().sum() / (4 * d * d)


def _covariance(rows: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    mean = (weights @ rows) / total.clamp_min(torch.finfo(rows.dtype).tiny)
    centred = rows - mean
    scatter = centred.mT @ (weights.unsqueeze(-1) * centred)
    return torch.where(total >= 2, scatter / (total - 1).where(total >= 2, 1.0), 0.0)


class DeepCORAL(DeepAligner):
    """Maps a support set to a network whose outputs have one covariance on source and target.

        L = loss of the labelled rows + strength * |C_s - C_t|^2 / (4 d^2)

    C_s and C_t (d, d) are the covariances of the head's outputs over source and target rows.

    ``backbone``     inputs (n, ...) -> features (n, d), where training starts; its frozen
                     parameters do not move.
    ``steps``        number of steps; 100 by default.
    ``rate``         learning rate; 0.01 by default.
    ``strength``     of the difference of covariances. The paper sets it so that both losses are
                     about equal at the end; 1 by default.
    ``of_features``  whether the covariances are those of the features instead of the outputs.
    ``update``       update rule; momentum of 0.9 by default, as in the paper.
    ``batch``        rows of each side in a step; None, the default, for all.
    ``seed``         of the order of batches.

    State, and what happens to labelled target rows and in plain tasks: see :class:`DeepAligner`.

    Raises ValueError for numbers out of range, and in ``adapt`` for source rows without any row of
    the target, and for weights that do not stay finite.

    Reference: Sun and Saenko (2016), Deep CORAL: Correlation Alignment for Deep Domain Adaptation,
    equations 1 to 6. Differs from the paper in the network and in its rates, which are ten times
    higher in the head.

    >>> import torch, quickstudy as qs
    >>> learner = qs.DeepCORAL(qs.backbones.MLP(in_features=2), steps=5)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0]])
    >>> support = qs.examples(x, [0, 1, -1, -1], groups=[1, 1, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([4, 2])
    """

    reads_pairs = True

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 100,
        rate: float = 0.01,
        strength: float = 1.0,
        of_features: bool = False,
        update: Update = SGD_WITH_MOMENTUM,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, steps, rate, strength, update, batch, seed)
        self.of_features = of_features

    def difference(self, source: Side, target: Side, weights: Weights, progress: float) -> Tensor:
        """The distance of the two covariances."""
        s, t = (side.features if self.of_features else side.outputs for side in (source, target))
        return self.strength * coral_distance(s, t, source.weights, target.weights)
