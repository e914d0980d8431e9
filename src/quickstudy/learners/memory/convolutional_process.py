"""A neural process on a plane, whose representation is a picture that a convolutional net reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.modules import fast_on_cpu
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.memory.neural_process import check_floor, gaussian_likelihood
from quickstudy.learners.outputs import element_weights, label_vectors
from quickstudy.tasks.examples import labelled

EMPTY = 1e-6
"""Density below which a grid point counts as having no row near it."""


class ConvolutionalConditionalNeuralProcess(Learner):
    """Maps a support set of places in a square to a function on it, equivariant to translation.

        density_k(t) = sum_i w_ik ψ(t - x_i)
        signal_k(t)  = sum_i w_ik ψ(t - x_i) y_ik / density_k(t)
        f_k          = CNN([density_k, signal_k])                  on a grid of points t
        mean_k(x), spread_k(x) = sum_t ψ'(x - t) f_k(t),   deviation = floor + (1 - floor) softplus
        ψ(d)         = exp(-|d|² / 2 length²),  ψ' likewise with a length of its own, both learnt

    Because the same net reads every part of the plane, what is learnt about strokes in one corner
    holds in all; near the border, beyond which the net reads zeros, and for moves by a part of a
    cell, this is approximate. The outputs k of a regression are independent functions under one
    prior; an unknown target is no row for its output. Far from the square [-1, 1]², the mean is 0.

    ``backbone``  inputs (n, ...) -> places (n, 2), those of interest in [-1, 1]²; for places as
                  they are, :class:`quickstudy.backbones.Features` of 2. Another number of features
                  is mapped to the plane by a linear layer, which is learnt.
    ``grid``      points along a side, at the centres of as many equal cells: for pictures, their
                  side in pixels.
    ``channels``  of the net; ``blocks`` of two 3x3 convolutions each, with a residual connection.
    ``floor``     least standard deviation, in the unit of the targets; 0.1 in the paper's code.

    State: ``maps`` (outputs, 2, grid, grid), f; ``statistics`` for norm="support".

    Raises ValueError for targets that are not one vector a row.

    :meth:`uncertainty` gives the standard deviation, which :func:`.gaussian_likelihood` trains.

    Reference: Gordon, Bruinsma, Foong, Requeima, Dubois and Turner (2020), Convolutional
    Conditional Neural Processes, algorithm 1 in two dimensions.
    Differs from the paper in the optional map to the plane, in plain residual convolutions, where
    the paper's are separable or form a U-Net, and in a grid that does not grow with the data: the
    paper's has a margin around them, so that its border is far.

    >>> import torch, quickstudy as qs
    >>> learner = qs.ConvolutionalConditionalNeuralProcess(qs.backbones.Features(2), grid=8)
    >>> support = qs.examples(torch.tensor([[-0.5, 0.5], [0.5, 0.0]]), torch.eye(2)[:, :1])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    answers = (Reals,)
    objective = staticmethod(gaussian_likelihood)

    def __init__(
        self,
        backbone: nn.Module,
        grid: int = 14,
        channels: int = 64,
        blocks: int = 3,
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        name = "ConvolutionalConditionalNeuralProcess"
        refuse_sizes(name, grid=grid, channels=channels, blocks=blocks)
        check_floor(name, floor)
        self.grid, self.channels, self.blocks, self.floor = grid, channels, blocks, floor
        cell = torch.tensor(2.0 / grid)
        self.log_lengths = nn.Parameter((cell / 2).log().repeat(2))  # of ψ and of ψ'
        features = feature_size(backbone, name)
        self.plane = nn.Identity() if features == 2 else nn.Linear(features, 2)
        self.first = nn.Conv2d(2, channels, 3, padding="same")
        self.residual = nn.ModuleList(_block(channels) for _ in range(blocks))
        self.last = nn.Conv2d(channels, 2, 1)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The net's maps of ``support``, for every output."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        places = self.plane(features)
        targets = label_vectors(support, spec.answer, spec.outputs, places.dtype).mT
        weights = element_weights(support, spec.answer, places.dtype).mT
        down, right = self._nearness(places, 0)
        density = torch.einsum("kn, nh, nw -> khw", weights, down, right)
        total = torch.einsum("kn, nh, nw -> khw", weights * targets, down, right)
        maps = self.first(fast_on_cpu(torch.stack([density, total / (density + EMPTY)], 1)))
        for block in self.residual:
            maps = maps + block(maps)
        return {"maps": self.last(maps.relu()), "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """The mean (n, outputs)."""
        return self.distribution(state, inputs)[0]

    def uncertainty(self, state: State, inputs: Any) -> Tensor:
        """The standard deviation (n, outputs) of the targets."""
        return self.distribution(state, inputs)[1]

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The places (n, 2)."""
        places: Tensor = self.plane(embed_query(self.backbone, inputs, state["statistics"]))
        return places

    def distribution(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, outputs)."""
        down, right = self._nearness(self.embed(state, inputs), 1)
        read = torch.einsum("nh, nw, kchw -> cnk", down, right, state["maps"])
        return read[0], self.floor + (1 - self.floor) * F.softplus(read[1])

    def _nearness(self, places: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """ψ along each side, (n, grid) each; their product is ψ in the plane."""
        cells = torch.arange(self.grid, dtype=places.dtype, device=places.device)
        points = (2 * cells + 1) / self.grid - 1
        squares = (places.unsqueeze(-1) - points).square()  # (n, 2, grid)
        down, right = (-squares / (2 * (2 * self.log_lengths[which]).exp())).exp().unbind(1)
        return down, right


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, padding="same"),
        nn.ReLU(), nn.Conv2d(channels, channels, 3, padding="same"),
    )  # fmt: skip
