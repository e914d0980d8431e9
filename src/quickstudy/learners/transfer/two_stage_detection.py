"""Two-stage fine-tuning (TFA): the last layers of a detector, on as many objects of each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.answers.boxes import is_box
from quickstudy.backbones.norms import embed_support
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.gradient.descend import Adam, Descent, Update, Weights, gradients_of, last
from quickstudy.learners.metric.distances import unit
from quickstudy.learners.transfer.centre_learner import CentreLearner, Crops
from quickstudy.learners.transfer.centres import edge_losses
from quickstudy.tasks.examples import labelled, without_absent


class TwoStageDetection(CentreLearner):
    """Maps pictures with boxes to a detector whose last layers are fine-tuned on these boxes.

        W_c      <- the direction of the mean feature of class c, over all its crops
        logits   = scale cos(W_c, f(crop) - m)
        (W, V)   <- update((W, V), ∇ [cross entropy + edge loss of the annotated boxes]), ``steps``
                    times

    Stage one trains the centre head on base classes. Stage two, in ``adapt``, moves the last layer
    of the classifier, W, and that of offsets and sizes, V, on a support set with as many objects of
    each class, base classes included, so that new ones are learnt and base ones not forgotten.
    Everything before these layers stays.

    ``backbone``   pictures (n, channels, h, w) -> maps (n, c, h', w').
    ``encoder``    crops (n, channels, side, side) -> features (n, d); None for the mean of the maps
                   over a box.
    ``steps``      of stage two, ``rate`` of each, and ``update``, the rule; all annotated boxes
                   count in every step.
    ``scale``      factor on the cosine; 20 in the paper.
    ``base``, ``exemplars``, ``slots``, ``side``, ``margin``, ``width``   as for
                   :class:`quickstudy.CropDetection`. Remembered objects set where W starts, and
                   take no part in the steps.

    State: ``weight`` (d, k + 1), ``offset`` (k + 1,), ``mean`` (d,); ``edges``, the ``weight``
    (4, width) and ``bias`` (4,) of offsets and sizes; ``seen`` (k + 1,), which classes have an
    example; ``statistics`` for norm="support".

    Raises ValueError for numbers out of range, a backbone of vectors, and a task with another
    number of base classes.

    Reference: Wang, Huang, Darrell, Gonzalez and Yu (2020), Frustratingly Simple Few-Shot Object
    Detection, section 3.
    Differs from the paper in the detector, a centre head on frozen features in place of Faster
    R-CNN; in the start of W, the mean features of base and new classes, where the paper trains the
    base rows in stage one and draws the others at random or fine-tunes them first; and in steps of
    Adam on the whole support set.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.backbones.Conv4(channels=8, image_size=16, pools=1, flat=False)
    >>> learner = qs.TwoStageDetection(backbone, slots=3, steps=2)
    >>> box = torch.tensor([[[0.1, 0.1, 0.6, 0.5]]])
    >>> targets = {"boxes": box.expand(2, -1, -1), "classes": torch.tensor([[0], [1]])}
    >>> support = qs.examples(torch.rand(2, 1, 16, 16), targets)
    >>> learner(support, qs.detection(2))(support.inputs)["boxes"].shape
    torch.Size([2, 6, 4])
    """

    differentiates = True

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module | None = None,
        steps: int = 30,
        rate: float = 0.003,
        update: Update = Adam(),  # noqa: B008  (frozen)
        scale: float = 20.0,
        base: int = 0,
        exemplars: int = 0,
        slots: int = 20,
        side: int = 128,
        margin: float = 0.1,
        width: int = 64,
    ) -> None:
        super().__init__(backbone, encoder, base, exemplars, slots, side, margin, width)
        if steps < 0 or rate <= 0 or scale <= 0:
            raise ValueError(
                "TwoStageDetection: steps must be at least 0, rate and scale positive; found "
                f"steps={steps}, rate={rate}, scale={scale}."
            )
        self.steps, self.rate, self.update, self.scale = steps, rate, update, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The last layers after the steps on ``support``."""
        support = labelled(support, spec.answer)
        maps, statistics = embed_support(self.backbone, support)
        rows = self.crops_of(support, maps, spec)
        weights = rows.balanced()
        mean = weights @ rows.features / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        features = unit(rows.features - mean)
        seen = rows.weights @ rows.targets > 0
        start = {
            "classes": unit((weights.unsqueeze(-1) * rows.targets).mT @ features),
            "weight": self.head.edges.weight, "bias": self.head.edges.bias,
        }  # fmt: skip
        loss = self._loss(support, maps, rows, features, seen)
        steps = Descent(self.steps, self.rate, self.update)
        moved = last(steps.along(gradients_of(loss), start))
        classes = self.scale * unit(moved["classes"])
        return {
            "weight": classes.mT.contiguous(), "offset": classes.new_zeros(len(classes)),
            "mean": mean, "edges": {name: moved[name] for name in ("weight", "bias")},
            "seen": seen, "statistics": statistics,
        }  # fmt: skip

    def _loss(
        self, support: Examples, maps: Tensor, rows: Crops, features: Tensor, seen: Tensor
    ) -> BoxLoss:
        hidden = self.head(maps).hidden
        n = rows.remembered
        annotated = Crops(features[n:], rows.targets[n:], rows.weights[n:], 0)
        return BoxLoss(self, support, hidden, annotated, seen)


class BoxLoss:
    """Weights of the last layers -> the loss () of the annotated boxes of a support set."""

    def __init__(
        self,
        learner: TwoStageDetection,
        support: Examples,
        hidden: Tensor,
        crops: Crops,
        seen: Tensor,
    ) -> None:
        self.learner, self.support, self.hidden = learner, support, hidden
        self.crops, self.seen, self.weights = crops, seen, crops.balanced()

    def __call__(self, moved: Weights) -> Tensor:
        """Cross-entropy with equal weight for each class, and the edge loss for each box."""
        tiny = torch.finfo(self.weights.dtype).tiny
        logits = self.learner.scale * self.crops.features @ unit(moved["classes"]).mT
        shares = without_absent(logits, self.seen).log_softmax(-1)
        entropy = -(self.weights @ (shares * self.crops.targets).sum(-1))
        return entropy / self.weights.sum().clamp_min(tiny) + self._edges(moved)

    def _edges(self, moved: Weights) -> Tensor:
        exists = is_box(self.support.targets)
        weights = self.support.weights.to(self.hidden.dtype)
        boxes = self.support.targets["boxes"].to(self.hidden.dtype)
        losses = edge_losses(
            self.learner.head, self.hidden, boxes, exists, (moved["weight"], moved["bias"])
        )
        return weights @ losses / (weights @ exists.to(weights.dtype).sum(1)).clamp_min(1)
