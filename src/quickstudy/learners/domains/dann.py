"""Domain-adversarial training: features that do not show whether a row is of the target."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_sizes
from quickstudy.learners.domains.deep_alignment import SGD_WITH_MOMENTUM, DeepAligner, Side
from quickstudy.learners.gradient.descend import Update, Weights
from quickstudy.tasks.examples import weighted_mean

_PART = "domain."


def reversed_gradient(values: Tensor, factor: float) -> Tensor:
    """``values`` themselves, whose gradient is multiplied by -factor on the way back.

    Made of plain operators, so that it works under ``torch.func`` too; exact up to rounding.
    """
    return (1 + factor) * values.detach() - factor * values


def reversal_strength(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1: from 0 at the start to nearly 1 (section 5.2.2 of the paper)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


class DANN(DeepAligner):
    """Maps a support set to a network whose features do not show whether a row is of the target.

        L   = loss of the labelled rows + mean_s log(1 + e^-g(r(f))) + mean_t log(1 + e^g(r(f)))
        r   is the identity, with its gradient multiplied by -strength * λ
        λ   = 2 / (1 + e^(-10 p)) - 1,     p from 0 to 1 over the steps

    g is a small network that learns to tell source rows from target rows by their features f; the
    reversal r makes the features learn the opposite.

    ``backbone``  inputs (n, ...) -> features (n, d), where training starts; its frozen parameters
                  do not move.
    ``steps``     number of steps; 100 by default.
    ``rate``      learning rate at the start, falling as rate / (1 + 10 p)^0.75 over the steps, as
                  in the paper; 0.01 by default.
    ``strength``  factor on λ; 1 by default, as in the paper's larger experiments.
    ``hidden``    widths of g's hidden layers; (100,) by default, as for the paper's digits; () for
                  logistic regression, as for its shallow networks.
    ``update``    update rule; momentum of 0.9 by default, as in the paper.
    ``batch``     rows of each side in a step; None, the default, for all.
    ``seed``      of the first weights of g, and of the order of batches.

    State, and what happens to labelled target rows and in plain tasks: see :class:`DeepAligner`.
    The state has no part of g.

    Raises ValueError for numbers out of range, and in ``adapt`` for source rows without any row of
    the target, and for weights that do not stay finite.

    Reference: Ganin et al. (2016), Domain-Adversarial Training of Neural Networks, equations 9 to
    15 and section 5.2.2. Differs from the paper in the network.

    >>> import torch, quickstudy as qs
    >>> learner = qs.DANN(qs.backbones.MLP(in_features=2), steps=5)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [4.0, 2.0]])
    >>> support = qs.examples(x, [0, 1, -1, -1], groups=[1, 1, 0, 0])
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([4, 2])
    """

    annealed = True

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 100,
        rate: float = 0.01,
        strength: float = 1.0,
        hidden: tuple[int, ...] = (100,),
        update: Update = SGD_WITH_MOMENTUM,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, steps, rate, strength, update, batch, seed)
        self.hidden = tuple(hidden)
        for width in self.hidden:
            refuse_sizes("DANN", hidden=width)

    def own_parts(self, features: Tensor) -> Weights:
        """The first weights of g: uniform within 1 / sqrt(inputs), as torch's linear layers."""
        generator = torch.Generator().manual_seed(self.seed)
        sizes = (features.shape[-1], *self.hidden, 1)
        parts: Weights = {}
        for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            bound = inputs**-0.5
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                drawn = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
                parts[f"{_PART}{k}.{name}"] = (bound * drawn).to(features)
        return parts

    def difference(self, source: Side, target: Side, weights: Weights, progress: float) -> Tensor:
        """The loss of g, with the gradient of the features reversed."""
        factor = self.strength * reversal_strength(progress)
        logits = [
            self._domain(reversed_gradient(side.features, factor), weights)
            for side in (source, target)
        ]
        of_source = weighted_mean(F.softplus(-logits[0]), source.weights)
        return of_source + weighted_mean(F.softplus(logits[1]), target.weights)

    def _domain(self, features: Tensor, weights: Weights) -> Tensor:
        """g (n,), positive for rows that look like the source."""
        values = features
        for k in range(len(self.hidden) + 1):
            values = F.relu(values) if k else values
            values = values @ weights[f"{_PART}{k}.weight"].mT + weights[f"{_PART}{k}.bias"]
        return values.squeeze(-1)
