"""Sluice networks: subspaces of all tasks' layers mix, and a task reads a mixture of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.core import Task
from quickstudy.learners.multitask.base_learner import named_loss
from quickstudy.learners.multitask.stacked_parameters import Place
from quickstudy.learners.multitask.stitched_learner import StitchedLearner, shares_of_networks
from quickstudy.objectives import Outcome


def sluice_loss(learner: Any, task: Task) -> Outcome:
    """The loss of a named learner, plus ``penalty`` times :meth:`Sluice.overlap`."""
    loss, score = named_loss(learner, task)
    return Outcome(loss + learner.penalty * learner.overlap(), score)


class Sluice(StitchedLearner):
    """Maps a task that it knows by name to its head on a mixture of its network's layers.

        h_sq = relu(x_s W_sq + b_sq)            subspace q of the network s, in every layer
        x_tp = sum_sq α_tp,sq h_sq              the mixture of all subspaces of all tasks
        y_t  = head_t(sum_l β_tl x_t^(l))       for the task of name t, over the layers l

    Training adds ``penalty`` * sum_l sum_s sum_(p<q) |W_sp' W_sq|², so that the subspaces of a
    layer become orthogonal.

    Any other task gets the ridge head that fits its support set best, on what the heads of all
    networks read, side by side: see :class:`StitchedLearner`.

    ``backbone``   what all networks read: inputs (n, ...) -> features (n, d).
                   ``backbones.Features`` leaves the inputs as they are.
    ``tasks``      name -> number of outputs; they may differ. Each has a network of its own.
    ``width``      of every layer of a network; all subspaces together.
    ``layers``     number of layers; 3 as in the paper.
    ``subspaces``  number of subspaces of a layer; 2 as in the paper.
    ``penalty``    factor on the overlap of subspaces.
    ``networks``   number of networks where no task is known.
    ``own``        the α of a subspace for itself at first; the others share the rest equally. The β
                   start equal, as 1 / layers.
    ``l2``, ``scale``  of the head of a new task, as in ``LinearProbe``.

    Every row passes the networks of all tasks: a step of T tasks costs T² networks.

    Raises ValueError for numbers out of range, a width that the subspaces cannot share, and where
    ``HardSharing`` does.

    Reference: Ruder et al. (2019), Latent Multi-Task Architecture Learning.
    Differs from the paper in its networks, perceptrons above a shared backbone instead of recurrent
    ones; in more than two tasks; in the first values of α and β; in weights of tasks, which are
    those of training; and in adapting to tasks that were not trained on.

    >>> import quickstudy as qs
    >>> learner = qs.Sluice(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    objective = staticmethod(sluice_loss)

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        width: int = 64,
        layers: int = 3,
        subspaces: int = 2,
        penalty: float = 0.01,
        networks: int = 2,
        own: float = 0.9,
        l2: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        refuse_sizes("Sluice", width=width, layers=layers, subspaces=subspaces)
        if width % subspaces:
            raise ValueError(
                f"Sluice: the subspaces share the width equally; found {subspaces} subspaces of a "
                f"width of {width}. Give a multiple of {subspaces}."
            )
        if not 0 <= penalty < float("inf"):
            raise ValueError(f"Sluice: penalty must be a number of at least 0; found {penalty}.")
        self.width, self.layers, self.subspaces, self.penalty = width, layers, subspaces, penalty
        self.own, self.l2, self.scale = own, l2, scale
        count = self._build(backbone, tasks, (width,) * layers, networks)
        first, other = shares_of_networks(count * subspaces, own, "Sluice")

        def mixing() -> nn.Parameter:
            all_of_them = count * subspaces
            start = torch.full((all_of_them, all_of_them), other).fill_diagonal_(first)
            axes = (count, subspaces)
            return nn.Parameter(like(backbone, start.view(*axes, *axes)))

        self.alphas = nn.ParameterList(mixing() for _ in range(layers - 1))
        self.last_alpha = mixing()
        self.betas = nn.Parameter(like(backbone, torch.full((count, layers), 1 / layers)))

    @property
    def per_task(self) -> tuple[str, ...]:
        """The heads, β, and the last α, of which a task reads one row; the rest reaches all."""
        return ("last_alpha", "betas", *super().per_task) if self.tasks else ()

    def overlap(self) -> Tensor:
        """sum over layers, networks and pairs of subspaces of |W_p' W_q|² (Frobenius): ()."""
        total = self.betas.new_zeros(())
        for weight in self.stitched.weights:  # (networks, d, width)
            parts = weight.chunk(self.subspaces, -1)
            for p, q in combinations(parts, 2):
                total = total + (p.mT @ q).square().sum()
        return total

    def _mixed_features(self, z: Tensor, place: Place | None = None) -> Tensor:
        x, outputs, layers = z, [], self.stitched.layers()
        for alpha, one in zip(self.alphas, layers, strict=False):
            h = one(x).unflatten(-1, (self.subspaces, -1))
            x = torch.einsum("tpsq,nsqh->ntph", alpha, h).flatten(2)
            outputs.append(x if place is None else x[:, place])
        h = layers[-1](x).unflatten(-1, (self.subspaces, -1))
        if place is None:
            outputs.append(torch.einsum("tpsq,nsqh->ntph", self.last_alpha, h).flatten(2))
            return torch.einsum("tl,nthl->nth", self.betas, torch.stack(outputs, -1))
        outputs.append(torch.einsum("psq,nsqh->nph", self.last_alpha[place], h).flatten(1))
        return torch.stack(outputs, -1) @ self.betas[place]
