"""Object detection: a box and a class for each object in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.answers.classes import cross_entropy, one_hot
from quickstudy.answers.metrics import box_iou, generalised_box_iou
from quickstudy.base.counted_fields import ADDED
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic

_NOTHING_WEIGHT = 0.1
_LENGTH_WEIGHT, _OVERLAP_WEIGHT = 5.0, 2.0
"""Weights of the terms of the loss, as in DETR."""


RECALLS = torch.from_numpy(np.linspace(0.0, 1.0, 101))
"""The levels of recall at which precision is read, in the rounding of the published evaluation."""


class _AveragePrecision(Score):
    """Average precision at an overlap of one half, as COCO defines it; pooled over tasks.

    A predicted box is right if its IoU with a true box of its class is at least 0.5, and no box of
    higher confidence has been matched to that one. Of several true boxes it is matched to the one
    of greatest IoU, the last of equal ones. The average is over 101 levels of recall, of the
    greatest precision at that recall or more; then over classes. Boxes of equal confidence count in
    the order of their images and slots.

    Equal to ``pycocotools`` 2.0, where images have at most 100 boxes and none is marked as a crowd.
    """

    unit: ClassVar[str] = "%"
    pooled: ClassVar[bool] = True
    while_training: ClassVar[bool] = False

    def counts(self, index: int) -> bool:
        """Whether the class with this id belongs to the mean."""
        return True

    def statistic(self, predictions: Any, query: Examples) -> Statistic:
        """Every slot's ``confidence``, ``class``, ``weight`` and whether it is ``right``.

        ``boxes`` (k,) are the weights of the true boxes, by class.
        """
        chosen = predictions["logits"].softmax(-1)[..., :-1].max(-1)
        confidence, classes = chosen.values, chosen.indices
        present = query.weights > 0
        edges, exists = query.targets["boxes"].nan_to_num(), is_box(query.targets)
        true = query.targets["classes"].long().where(exists, -1)
        right = torch.stack([
            _right_slots(*row)
            for row in zip(predictions["boxes"], confidence, classes, edges, true, strict=True)
        ])  # fmt: skip
        k = predictions["logits"].shape[-1] - 1
        per_image = one_hot(true, k, query.weights.dtype).sum(1)
        return {
            "confidence": confidence[present].flatten(),
            "class": classes[present].flatten(),
            "weight": query.weights[present, None].expand_as(classes[present]).flatten(),
            "right": right[present].flatten(),
            "boxes": query.weights @ per_image,
        }

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]; NaN where there is no true box at all."""
        of_class = []
        for index, count in enumerate(statistic["boxes"].tolist()):
            if count == 0 or not self.counts(index):
                continue
            of_this = statistic["class"] == index
            confidence, weight, right = (
                statistic[name][of_this] for name in ("confidence", "weight", "right")
            )
            of_class.append(average_precision_at(confidence, weight.double(), right, count))
        return torch.stack(of_class).mean() if of_class else torch.tensor(torch.nan)

    def merge(self, statistics: Sequence[Statistic]) -> Statistic:
        """All slots, one task after the other; weights of true boxes added up."""
        most = max(len(s["boxes"]) for s in statistics)
        counts = [F.pad(s["boxes"], (0, most - len(s["boxes"]))) for s in statistics]
        joined = {
            n: torch.cat([s[n] for s in statistics])
            for n in ("confidence", "class", "weight", "right")
        }
        return {**joined, "boxes": torch.stack(counts).sum(0)}


@dataclass(frozen=True)
class AP50(_AveragePrecision):
    """Average precision at an overlap of one half, as COCO defines it; the mean over classes."""

    name: ClassVar[str] = "AP50"


@dataclass(frozen=True)
class NovelAP50(_AveragePrecision):
    """AP50 of the classes after the first ``base``, which a learner was not trained on."""

    base: int
    name: ClassVar[str] = "novel AP50"

    def counts(self, index: int) -> bool:
        """Whether the class is none of the base classes."""
        return index >= self.base


@dataclass(frozen=True)
class BaseAP50(_AveragePrecision):
    """AP50 of the first ``base`` classes, which a learner was trained on."""

    base: int
    name: ClassVar[str] = "base AP50"

    def counts(self, index: int) -> bool:
        """Whether the class is one of the base classes."""
        return index < self.base


def average_precision_at(confidence: Tensor, weight: Tensor, right: Tensor, count: float) -> Tensor:
    """() the mean, over 101 levels of recall, of the greatest precision at that recall or more.

    Of slots (m,) of one class, in the order in which equal ones count, with true boxes of weight
    ``count``.
    """
    if not len(confidence):
        return weight.new_zeros(())
    order = confidence.argsort(descending=True, stable=True)
    found, chosen = ((part * weight)[order].cumsum(0) for part in (right, torch.ones_like(weight)))
    precision = found / chosen.clamp_min(torch.finfo(chosen.dtype).tiny)
    envelope = F.pad(precision.flip(0).cummax(0).values.flip(0), (0, 1))  # 0 where never reached
    levels = RECALLS.to(found.device)
    return envelope[torch.searchsorted(found / count, levels)].mean()


def _right_slots(
    boxes: Tensor, confidence: Tensor, classes: Tensor, true_boxes: Tensor, true_classes: Tensor
) -> Tensor:
    """(slots,): which boxes of one image match a true box, highest confidence first."""
    overlap = box_iou(boxes, true_boxes)
    overlap = overlap.where(classes[:, None] == true_classes, 0.0).flip(1)  # the last of equals
    right = torch.zeros_like(confidence, dtype=torch.bool)
    for slot in confidence.argsort(descending=True, stable=True).tolist():
        if overlap.shape[1] and overlap[slot].max() >= 0.5:
            right[slot] = True
            overlap[:, overlap[slot].argmax()] = 0.0
    return right


def is_box(targets: Any) -> Tensor:
    """(n, m): which entries are boxes; the others, padding, have class -1 or an edge of NaN."""
    exists: Tensor = (targets["classes"] >= 0) & ~targets["boxes"].isnan().any(-1)
    return exists


@dataclass(frozen=True)
class Boxes(Answer):
    """Boxes of objects of ``k`` classes: object detection.

    Targets a dict of ``boxes`` (n, m, 4), left, top, right and bottom as shares of the image, and
    ``classes`` (n, m) integer ids; padding has class -1, whatever its edges. Predictions a dict of
    ``boxes`` (n, slots, 4) and ``logits`` (n, slots, k + 1), the last for "nothing".

    The loss matches each true box to a different slot and adds, for each matched slot, the
    distance of the edges, 1 - generalised IoU and the cross-entropy of the class, and for all other
    slots the cross-entropy of "nothing", as in DETR (Carion et al., 2020).
    Differs from DETR in matching greedily, the best pair first, where DETR finds the best matching
    overall (Hungarian algorithm): greedy matching can be batched over tasks.

    ``base``  how many of the first classes are base classes, which the learner was trained on. The
              first score is then that of the others, and the second that of the base classes.

    Raises ValueError for k < 1, and unless 0 <= base < k.
    """

    k: int
    base: int = field(default=0, metadata=ADDED)
    kind: ClassVar[str] = "boxes"
    guess_name: ClassVar[str] = "boxes of the support"
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("Boxes", "k", self.k, 1)
        if not 0 <= self.base < self.k:
            raise ValueError(
                f"Boxes: base must be at least 0 and below k={self.k}, so that there is a novel "
                f"class; found {self.base}."
            )

    @property
    def outputs(self) -> int:
        """Numbers per slot: 4 edges, k classes and "nothing"."""
        return 4 + self.k + 1

    def check(self, targets: Any, what: str = "targets") -> None:
        """A dict of boxes (n, m, 4) and classes (n, m)."""
        if isinstance(targets, dict) and set(targets) == {"boxes", "classes"}:
            boxes, classes = targets["boxes"], targets["classes"]
            fits = boxes.ndim == 3 and boxes.shape[-1] == 4 and boxes.shape[:2] == classes.shape
            if fits and boxes.is_floating_point() and not classes.is_floating_point():
                return
            found = f"shapes {tuple(boxes.shape)} and {tuple(classes.shape)}, {boxes.dtype} and "
            found += f"{classes.dtype}"
        else:
            found = f"{sorted(targets) if isinstance(targets, dict) else type(targets).__name__}"
        raise ValueError(
            f"{what}: detection needs a dict of boxes (n, m, 4) of reals and classes (n, m) of "
            f"integer ids; found {found}. Pad images with fewer boxes with class -1."
        )

    def check_values(self, targets: Any, what: str = "targets") -> None:
        """No class id of ``k`` or more, and no box whose right edge is left of its left edge."""
        classes, boxes = targets["classes"], targets["boxes"]
        if classes.numel() and int(classes.max()) >= self.k:
            raise ValueError(
                f"{what}: class ids must lie in 0 … {self.k - 1}; found {int(classes.max())}. "
                "Renumber the classes, or raise the spec's classes."
            )
        if bool(((boxes[..., 2:] < boxes[..., :2]).any(-1) & (classes >= 0)).any()):
            raise ValueError(
                f"{what}: boxes are (left, top, right, bottom), but some end before they start. "
                "Turn (x, y, width, height) into edges."
            )

    def known(self, targets: Any) -> Tensor:
        """(n,): all rows. An image without boxes counts as empty; give unlabelled ones weight 0."""
        return torch.ones(targets["classes"].shape[:1], dtype=torch.bool,
                          device=targets["classes"].device)  # fmt: skip

    def fill(self, targets: Any) -> Any:
        """``targets`` unchanged: the loss leaves padding out itself."""
        return targets

    def element_losses(self, predictions: Any, targets: Any) -> Tensor:
        """(n,): the loss of each image."""
        exists = is_box(targets)
        edges = targets["boxes"].where(exists.unsqueeze(-1), 0.0)  # before arithmetic: no NaN
        rows = predictions["boxes"], predictions["logits"], edges, targets["classes"], exists
        images = zip(*(part.unbind() for part in rows), strict=True)
        return torch.stack([self._image_loss(*image) for image in images])

    def _image_loss(
        self, boxes: Tensor, logits: Tensor, true_boxes: Tensor, classes: Tensor, exists: Tensor
    ) -> Tensor:
        distance = (boxes[:, None] - true_boxes).abs().sum(-1)
        mismatch = 1 - generalised_box_iou(boxes, true_boxes)
        cost = _LENGTH_WEIGHT * distance + _OVERLAP_WEIGHT * mismatch
        of_class = logits.log_softmax(-1)[:, classes.clamp_min(0)]
        slot_of = _match_greedily((cost - of_class.exp()).detach(), exists)
        # (slots, m): 1 where a slot is matched to a true box.
        pairs = (torch.arange(len(boxes), device=boxes.device)[:, None] == slot_of) & exists
        pairs = pairs.to(cost.dtype)
        others = _NOTHING_WEIGHT * (1 - pairs.sum(-1))
        nothing = cross_entropy(logits, torch.full_like(logits[:, 0], self.k, dtype=torch.long))
        classified = (others * nothing).sum() - (pairs * of_class).sum()
        weights = (others.sum() + pairs.sum()).clamp_min(torch.finfo(cost.dtype).tiny)
        return (pairs * cost).sum() / pairs.sum().clamp_min(1) + classified / weights

    def encode(self, targets: Any, dtype: torch.dtype | None = None) -> Tensor:
        """(n, m, 4 + k + 1): each true box, its one-hot class, and 1 where it is no padding."""
        dtype = dtype or torch.get_default_dtype()
        exists = is_box(targets).unsqueeze(-1)
        boxes = targets["boxes"].where(exists, 0.0).to(dtype)
        classes = one_hot(targets["classes"], self.k, dtype) * exists
        return torch.cat([boxes, classes, exists.to(dtype)], -1)

    def decode(self, predictor: Predictor, inputs: Any) -> Any:
        """The detected objects: for each image a dict of boxes, classes and confidence.

        ``boxes`` (m, 4), ``classes`` (m,) and ``confidence`` (m,) of the slots whose best class is
        more probable than "nothing", highest confidence first.
        """
        predictions = predictor(inputs)
        images = []
        for boxes, p in zip(predictions["boxes"], predictions["logits"].softmax(-1), strict=True):
            confidence, classes = p[:, :-1].max(-1)
            order = confidence.argsort(descending=True)
            order = order[confidence[order] > p[order, -1]]
            images.append({"boxes": boxes[order], "classes": classes[order],
                             "confidence": confidence[order]})  # fmt: skip
        return images

    def prediction_shape(self, targets: Any) -> dict[str, tuple[int | None, ...]]:
        """(n, slots, 4) and (n, slots, k + 1), with any number of slots."""
        n = len(targets["classes"])
        return {"boxes": (n, None, 4), "logits": (n, None, self.k + 1)}

    @property
    def scores(self) -> tuple[Score, ...]:
        """AP50; with base classes, those of the novel and of the base classes come first."""
        return (NovelAP50(self.base), BaseAP50(self.base), AP50()) if self.base else (AP50(),)

    def guesses(self, support: Examples, query: Examples) -> list[Any]:
        """Every box of the support, in every image, all with the same confidence."""
        exists = is_box(support.targets) & (support.weights > 0).unsqueeze(-1)
        boxes, classes = (support.targets[name][exists] for name in ("boxes", "classes"))
        n = len(query.weights)
        logits = one_hot(classes, self.k + 1, boxes.dtype)
        return [{"boxes": boxes.expand(n, -1, -1), "logits": logits.expand(n, -1, -1)}]


def _match_greedily(cost: Tensor, exists: Tensor) -> Tensor:
    """(m,): the slot of each true box, -1 for none, from costs (slots, m); cheapest pair first."""
    slots, m = cost.shape
    cost = cost.where(exists, torch.inf)
    slot_of = torch.full((m,), -1, device=cost.device)
    columns, rows = torch.arange(m, device=cost.device), torch.arange(slots, device=cost.device)
    for _ in range(min(slots, m)):
        best = cost.flatten().argmin()
        row, column = best // m, best % m
        valid = cost.flatten().amin() < torch.inf
        slot_of = torch.where((columns == column) & valid, row, slot_of)
        used = (rows[:, None] == row) | (columns == column)
        cost = cost.masked_fill(used & valid, torch.inf)
    return slot_of
