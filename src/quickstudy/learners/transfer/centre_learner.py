"""The base of learners that find objects by a centre head and tell them apart by their crops."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from quickstudy.answers.boxes import Boxes, is_box
from quickstudy.answers.classes import one_hot
from quickstudy.backbones.centre_head import CentreHead, Centres, Weights
from quickstudy.backbones.features import feature_shape, feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.modules import values_can_be_read
from quickstudy.base.trees import concatenate
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.metric.distances import unit
from quickstudy.learners.transfer.centres import (
    Found,
    crops,
    edge_losses,
    found_boxes,
    heat_losses,
    heat_of,
    pooled,
)
from quickstudy.objectives import Outcome
from quickstudy.tasks.examples import labelled, require_given, without_absent

LEAST_CERTAINTY = 0.02
"""Boxes of which the head is less certain are left out, and their crops not looked at."""


def centre_loss(learner: Learner, task: Task) -> Outcome:
    """The loss of finding all objects of the task, of whatever class: support and query.

    The losses of heat, offsets and sizes over all pictures, by the number of objects (CenterNet,
    equations 1 to 4); the classes are not read, and nothing is adapted.

    Raises TypeError for a learner other than those of this module's base.
    """
    if not isinstance(learner, CentreLearner):
        raise TypeError(
            f"centre_loss: needs a learner with a centre head; found {type(learner).__name__}. "
            "Use CropDetection or TwoStageDetection."
        )
    rows = concatenate(require_given(task.support), require_given(task.query))
    rows = labelled(rows, task.spec.answer)
    maps, _ = embed_support(learner.backbone, rows)
    centres = learner.head(maps)
    exists = is_box(rows.targets)
    boxes = rows.targets["boxes"].where(exists.unsqueeze(-1), 0.5).to(maps.dtype)
    weights = rows.weights.to(maps.dtype)
    true = heat_of(boxes, exists, (maps.shape[-2], maps.shape[-1]))
    losses = heat_losses(centres.heat, true)
    losses = losses + edge_losses(learner.head, centres.hidden, boxes, exists)
    loss = weights @ losses / (weights @ exists.to(weights.dtype).sum(1)).clamp_min(1)
    return Outcome(loss, torch.full_like(loss.detach(), torch.nan))


class Crops(NamedTuple):
    """The objects that are annotated in a support set, and those that are remembered.

    ``features``  (m, d), ``targets`` (m, k + 1) their one-hot classes, the last for objects of none
    of the task's classes; ``weights`` (m,), 0 for padding. The first ``remembered`` rows are no
    support rows.
    """

    features: Tensor
    targets: Tensor
    weights: Tensor
    remembered: int

    def balanced(self) -> Tensor:
        """(m,): weights that give each class that there is the same total, 1."""
        totals = self.weights @ self.targets
        shares = self.targets / totals.clamp_min(torch.finfo(totals.dtype).tiny)
        return self.weights * shares.sum(1)


class CentreLearner(Learner, ABC):
    """Maps pictures with boxes to a detector: objects of any class, then the class of each.

    A subclass defines a constructor that calls this one, and :meth:`adapt`, which returns the state
    of :meth:`predict`.

    ``backbone``   pictures (n, channels, h, w) -> maps (n, c, h', w').
    ``encoder``    crops (n, channels, side, side) -> features (n, d), which tell classes apart.
                   None takes the mean of the maps over a box.
    ``base``       number of base classes, the first ones of tasks that have any.
    ``exemplars``  how many objects of each base class :meth:`remember` keeps.
    ``slots``      most boxes in a picture.
    ``side``       of crops, in pixels, and ``margin`` around the box, as a share of it.
    ``width``      channels of the head's hidden layer.

    State: ``weight`` (d, k + 1) and ``offset`` (k + 1,) of the classifier, ``mean`` (d,) which is
    subtracted from features; ``seen`` (k + 1,), which classes have an example; ``edges`` where the
    layer of offsets and sizes moved; ``statistics`` for norm="support".

    Raises ValueError for sizes below 1, a negative margin, exemplars without base classes or the
    other way round, and a backbone of vectors.
    """

    answers = (Boxes,)
    objective: Callable[[Learner, Task], Any] = staticmethod(centre_loss)
    exemplar_features: Tensor
    exemplar_classes: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module | None,
        base: int,
        exemplars: int,
        slots: int,
        side: int,
        margin: float,
        width: int,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        refuse_sizes(who, slots=slots, side=side, width=width)
        if margin < 0 or base < 0 or exemplars < 0 or (base > 0) != (exemplars > 0):
            raise ValueError(
                f"{who}: margin must be at least 0, and base and exemplars both positive or both "
                f"0; found margin={margin}, base={base}, exemplars={exemplars}."
            )
        shape = feature_shape(backbone, who)
        if len(shape) != 3:
            raise ValueError(
                f"{who}: needs a backbone that gives maps (channels, height, width); found vectors "
                f"of {shape[0]}. Use Conv4(flat=False), or maps of a pretrained network."
            )
        self.backbone, self.encoder, self.base, self.exemplars = backbone, encoder, base, exemplars
        self.slots, self.side, self.margin, self.width = slots, side, margin, width
        self.head = like(backbone, CentreHead(shape[0], width))
        size = shape[0] if encoder is None else feature_size(encoder, who)
        rows = base * exemplars
        self.register_buffer("exemplar_features", like(backbone, torch.zeros(rows, size)))
        self.register_buffer("exemplar_classes", torch.full((rows,), -1))

    @torch.no_grad()
    def remember(self, rows: Examples) -> None:
        """Keep the features of the first ``exemplars`` objects of each base class in ``rows``.

        They are what tells base classes from new ones later. Features of a frozen encoder do not
        change, so this can be done before training; otherwise do it after.

        Raises ValueError where a base class has no object in ``rows``.
        """
        maps, _ = embed_support(self.backbone, rows)
        features, classes, _ = self._objects(rows, maps)
        for k in range(self.base):
            found = features[classes == k][: self.exemplars]
            if not len(found):
                raise ValueError(
                    f"remember: base class {k} of {self.base} has no object in these pictures. "
                    "Give pictures of all base classes."
                )
            first = k * self.exemplars
            self.exemplar_features[first : first + len(found)] = found
            self.exemplar_classes[first : first + self.exemplars] = -1
            self.exemplar_classes[first : first + len(found)] = k

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> dict[str, Tensor]:
        """``boxes`` (n, slots k, 4) and ``logits`` (n, slots k, k + 1): a slot for each class.

        p(class) = p(object) p(class | crop). A box is given once for each class, with its
        probability of that class and else of nothing, as detectors are scored. A box that is left
        out has no area.
        """
        maps = embed_query(self.backbone, inputs, state["statistics"])
        found = self.found(self.head(maps), state.get("edges"))
        certain = found.certainty >= LEAST_CERTAINTY
        features = self.features_of(inputs, maps, found.boxes.detach(), certain)
        logits = unit(features - state["mean"]) @ state["weight"] + state["offset"]
        shares = without_absent(logits, state["seen"]).softmax(-1)[..., :-1]
        of_class = found.certainty.where(certain, 0.0).unsqueeze(-1) * shares
        # A slot always names a class, if with hardly any confidence: without an area it is no find.
        return one_slot_a_class(found.boxes * certain.unsqueeze(-1), of_class)

    def found(self, centres: Centres, edges: Mapping[str, Tensor] | None = None) -> Found:
        """Boxes of objects of any class; ``edges`` are ``weight`` and ``bias`` that moved."""
        moved: Weights | None = None if edges is None else (edges["weight"], edges["bias"])
        return found_boxes(self.head, centres, self.slots, moved)

    def features_of(self, inputs: Tensor, maps: Tensor, boxes: Tensor, wanted: Tensor) -> Tensor:
        """Features (n, s, d) of the contents of boxes (n, s, 4); zeros where not ``wanted``."""
        if self.encoder is None:
            return pooled(maps, boxes) * wanted.unsqueeze(-1)
        if not values_can_be_read(wanted):  # the number of crops must not depend on values
            cut = crops(inputs, boxes, self.side, self.margin)
            features = self.encoder(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])
            return cast("Tensor", features * wanted.unsqueeze(-1))
        picture, slot = wanted.nonzero(as_tuple=True)
        size = feature_size(self.encoder, type(self).__name__)
        features = maps.new_zeros(*wanted.shape, size)
        if len(picture):
            parts = zip(picture.split(_AT_ONCE), slot.split(_AT_ONCE), strict=True)
            cut = torch.cat([
                crops(inputs[i], boxes[i, j].unsqueeze(1), self.side, self.margin).squeeze(1)
                for i, j in parts
            ])  # fmt: skip
            features = features.index_put((picture, slot), self.encoder(cut))
        return features

    def _objects(self, rows: Examples, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (n m, d), classes (n m,), -1 for padding, and weights (n m,) of true boxes."""
        exists = is_box(rows.targets)
        boxes = rows.targets["boxes"].where(exists.unsqueeze(-1), 0.5).to(maps.dtype)
        wanted = exists & (rows.weights > 0).unsqueeze(-1)
        features = self.features_of(rows.inputs, maps, boxes, wanted).flatten(0, 1)
        classes = rows.targets["classes"].long().where(exists, -1).flatten()
        weights = rows.weights.to(maps.dtype).unsqueeze(-1).expand(wanted.shape) * exists
        return features, classes, weights.flatten()

    def crops_of(self, support: Examples, maps: Tensor, spec: TaskSpec) -> Crops:
        """The remembered and the annotated objects, for a task of this ``spec``.

        Remembered ones are of none of the task's classes where it has no base classes.

        Raises ValueError for a task of another number of base classes than this learner's.
        """
        k, base = spec.outputs - 5, cast("Boxes", spec.answer).base
        if base not in (0, self.base):
            raise ValueError(
                f"{type(self).__name__}: the task has {base} base classes, but the learner was "
                f"trained on {self.base}. Give qs.detection({k}, base={self.base}), or base=0 for "
                "new classes alone."
            )
        features, classes, weights = self._objects(support, maps)
        known = self.exemplar_classes
        others = known if base else known.where(known < 0, k)
        return Crops(
            torch.cat([self.exemplar_features, features]),
            one_hot(torch.cat([others, classes]), k + 1, features.dtype),
            torch.cat([(known >= 0).to(weights.dtype), weights]),
            len(known),
        )


def one_slot_a_class(boxes: Tensor, of_class: Tensor) -> dict[str, Tensor]:
    """Boxes (n, s, 4) of probabilities (n, s, k) as predictions of n rows and s k slots."""
    k = of_class.shape[-1]
    own = torch.eye(k, dtype=of_class.dtype, device=of_class.device)
    shares = torch.cat([of_class.unsqueeze(-1) * own, 1 - of_class.unsqueeze(-1)], -1)
    # Not zero, whose logarithm is infinite; small beside every certainty that counts.
    logits = shares.clamp_min(_NONE).log()
    return {
        "boxes": boxes.unsqueeze(-2).expand(*of_class.shape, 4).flatten(1, 2),
        "logits": logits.flatten(1, 2),
    }


_NONE = 1e-7
"""Probability of a class that a slot is not for."""
_AT_ONCE = 64
"""Crops that are cut at once: each takes a copy of its picture."""
