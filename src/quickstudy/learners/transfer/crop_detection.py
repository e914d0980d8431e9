"""Detection by a centre head, and a classifier on the crops of a few annotated objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import embed_support
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.metric.distances import unit
from quickstudy.learners.transfer.centre_learner import CentreLearner
from quickstudy.learners.transfer.heads import logistic
from quickstudy.tasks.examples import labelled

Head = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(features (m, d), one-hot targets (m, c), weights (m,), l2) -> weight (d, c), offset (c,)."""


def prototypes(
    features: Tensor, targets: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """The direction of each class's mean, so that logits are cosines divided by ``l2``."""
    means = unit((weights.unsqueeze(-1) * targets).mT @ features)
    return means.mT / l2, means.new_zeros(len(means))


class CropDetection(CentreLearner):
    """Maps pictures with boxes to a detector of the classes of these boxes.

        boxes, o = peaks of the centre head            (objects of any class, and their certainty)
        z        = f(crop of a box) - m,   z / |z|
        p(c)     = o softmax(W z + b)_c
        W, b     = classifier(crops of the annotated and the remembered objects)

    The centre head is trained on base classes, by the loss of CenterNet, and does not change in
    ``adapt``: it has learnt what an object is. Features f are those of a frozen network, of the
    picture inside a box enlarged to ``side`` pixels, or the mean of the head's maps over the box. m
    is the mean over classes of mean features. Classes have the same total weight, whatever their
    number of examples.

    ``backbone``   pictures (n, channels, h, w) -> maps (n, c, h', w').
    ``encoder``    crops (n, channels, side, side) -> features (n, d); None for the mean of the maps
                   over a box.
    ``classifier``  :func:`logistic` regression, or :func:`prototypes`.
    ``l2``         penalty of the logistic head; cosines to prototypes are divided by it.
    ``base``       number of base classes, which come first in tasks with base classes; 0 for none.
    ``exemplars``  objects of each base class that :meth:`remember` keeps, as examples in every
                   later task. In a task without base classes they are what is *not* asked for.
    ``slots``      most boxes in a picture.
    ``side``       of crops in pixels; ``margin`` around a box, as a share of it.
    ``width``      channels of the centre head.

    State: ``weight`` (d, k + 1), ``offset`` (k + 1,), ``mean`` (d,); ``seen`` (k + 1,), which
    classes have an example; ``statistics`` for norm="support".

    Raises ValueError for numbers out of range, a backbone of vectors, and a task with another
    number of base classes.

    Reference: Zhou, Wang and Krähenbühl (2019), Objects as Points, for the centres; Snell, Swersky
    and Zemel (2017), Prototypical Networks, for the prototypes.
    Differs from the former in one heat map for all classes, see
    :class:`quickstudy.backbones.CentreHead`; in frozen features; in a classifier on crops; and in
    leaving out boxes that overlap a more certain one.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.backbones.Conv4(channels=8, image_size=16, pools=1, flat=False)
    >>> learner = qs.CropDetection(backbone, slots=3)
    >>> box = torch.tensor([[[0.1, 0.1, 0.6, 0.5]]])
    >>> targets = {"boxes": box.expand(2, -1, -1), "classes": torch.tensor([[0], [1]])}
    >>> support = qs.examples(torch.rand(2, 1, 16, 16), targets)
    >>> learner(support, qs.detection(2))(support.inputs)["boxes"].shape
    torch.Size([2, 6, 4])
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module | None = None,
        classifier: Head = logistic,
        l2: float = 0.01,
        base: int = 0,
        exemplars: int = 0,
        slots: int = 20,
        side: int = 128,
        margin: float = 0.1,
        width: int = 64,
    ) -> None:
        super().__init__(backbone, encoder, base, exemplars, slots, side, margin, width)
        if l2 <= 0:
            raise ValueError(f"CropDetection: l2 must be positive; found {l2}.")
        self.classifier, self.l2 = classifier, l2

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The classifier of the crops of ``support``."""
        support = labelled(support, spec.answer)
        maps, statistics = embed_support(self.backbone, support)
        rows = self.crops_of(support, maps, spec)
        weights = rows.balanced()
        total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        mean = weights @ rows.features / total
        weight, offset = self.classifier(unit(rows.features - mean), rows.targets, weights, self.l2)
        return {
            "weight": weight.contiguous(), "offset": offset, "mean": mean,
            "seen": rows.weights @ rows.targets > 0, "statistics": statistics,
        }  # fmt: skip
