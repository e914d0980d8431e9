"""Cross-stitch networks: after every layer, each task's network reads a mixture of all networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import like
from quickstudy.learners.multitask.perceptrons import checked_widths
from quickstudy.learners.multitask.stacked_parameters import Place
from quickstudy.learners.multitask.stitched_learner import StitchedLearner, shares_of_networks


class CrossStitch(StitchedLearner):
    """Maps a task that it knows by name to the head of its network, stitched to the others.

        h_s = relu(x_s W_s + b_s)               for every network s, in every layer
        x_t = sum_s α_ts h_s                    the cross-stitch after it
        y_t = head_t(x_t)                       for the task of name t, after the last layer

    Any other task gets the ridge head that fits its support set best, on the x_t of all networks
    side by side: see :class:`StitchedLearner`.

    ``backbone``  what all networks read: inputs (n, ...) -> features (n, d). ``backbones.Features``
                  leaves the inputs as they are.
    ``tasks``     name -> number of outputs; they may differ. Each has a network of its own.
    ``hidden``    widths of the layers of a network.
    ``networks``  number of networks where no task is known.
    ``own``       α_tt at first; the other α_ts share the rest equally.
    ``by_channel``  whether every unit of a layer has an α of its own.
    ``l2``, ``scale``  of the head of a new task, as in ``LinearProbe``.

    Every row passes the networks of all tasks: a step of T tasks costs T² networks.

    Raises ValueError for numbers out of range, and where ``HardSharing`` does.

    Reference: Misra et al. (2016), Cross-stitch Networks for Multi-task Learning, equation 1.
    Differs from the paper in its networks, perceptrons above a shared backbone instead of stitched
    convolutional networks; in more than two tasks; in learning α at the rate of all parameters,
    where the paper's is 100 to 1,000 times as large (with Adam, whose steps do not depend on the
    size of the gradient, this matters less); and in adapting to tasks that were not trained on.

    >>> import quickstudy as qs
    >>> learner = qs.CrossStitch(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        hidden: tuple[int, ...] = (64, 64),
        networks: int = 2,
        own: float = 0.9,
        by_channel: bool = False,
        l2: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.hidden = checked_widths("CrossStitch", "hidden", hidden)
        self.own, self.by_channel, self.l2, self.scale = own, by_channel, l2, scale
        count = self._build(backbone, tasks, self.hidden, networks)
        first, other = shares_of_networks(count, own, "CrossStitch")

        def stitch(width: int) -> nn.Parameter:
            start = torch.full((count, count), other).fill_diagonal_(first)
            if by_channel:
                start = start.unsqueeze(-1).repeat(1, 1, width)
            return nn.Parameter(like(backbone, start))

        self.stitches = nn.ParameterList(stitch(width) for width in self.hidden[:-1])
        self.last_stitch = stitch(self.hidden[-1])

    @property
    def per_task(self) -> tuple[str, ...]:
        """The heads, and the last stitch, of which a task reads one row; the rest reaches all."""
        return ("last_stitch", *super().per_task) if self.tasks else ()

    def _mixed_features(self, z: Tensor, place: Place | None = None) -> Tensor:
        x, layers = z, self.stitched.layers()
        for stitch, one in zip(self.stitches, layers, strict=False):
            x = self._stitched(stitch, one(x))
        last = layers[-1](x)
        if place is None:
            return self._stitched(self.last_stitch, last)
        return self._stitched(self.last_stitch[place].unsqueeze(0), last).squeeze(1)

    def _stitched(self, stitch: Tensor, h: Tensor) -> Tensor:
        """sum_s α_ts h_s: (t, s) or, by channel, (t, s, h), with (n, s, h) -> (n, t, h)."""
        return torch.einsum("tsh,nsh->nth" if self.by_channel else "ts,nsh->nth", stitch, h)
