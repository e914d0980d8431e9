"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.baselines import nearest_mean
from quickstudy.answers.checks import check_count, check_ids, check_largest_id, equal_but_for
from quickstudy.answers.classes import cross_entropy, hide_absent, one_hot
from quickstudy.answers.metrics import intersection_and_union
from quickstudy.base.counted_fields import ADDED
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic


class _ClassIoU(Score):
    """Mean intersection over union of classes, from counts of pixels."""

    unit: ClassVar[str] = "%"

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``intersection`` and ``union`` (k,): weighted counts of pixels."""
        both, either = intersection_and_union(
            predictions.argmax(-1), query.targets, query.weights, predictions.shape[-1]
        )
        return {"intersection": both, "union": either}

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1], over the classes that occur in targets or predictions."""
        occurs = statistic["union"] > 0
        return (statistic["intersection"] / statistic["union"]).where(occurs, torch.nan).nanmean()

    def merge(self, statistics: Sequence[Statistic]) -> Statistic:
        """The sum of the counts per class; a task of fewer classes counts 0 for the others."""
        most = max(len(s["union"]) for s in statistics)
        padded = [{n: F.pad(v, (0, most - len(v))) for n, v in s.items()} for s in statistics]
        return super().merge(padded)


@dataclass(frozen=True)
class MeanIoU(_ClassIoU):
    """Mean intersection over union of the classes in each task; the mean over tasks."""

    name: ClassVar[str] = "mean IoU"


@dataclass(frozen=True)
class PooledMeanIoU(_ClassIoU):
    """Mean IoU from intersections and unions summed over tasks; may rank learners differently."""

    name: ClassVar[str] = "pooled mean IoU"
    pooled: ClassVar[bool] = True


@dataclass(frozen=True)
class ForegroundIoU(_ClassIoU):
    """Mean intersection over union of the classes other than 0, the background; over tasks.

    The background, most of a picture, would hide what is missed: so few-shot segmentation leaves
    it out (Shaban et al., 2017, One-Shot Learning for Semantic Segmentation). On PASCAL-5i counts
    are summed over all tasks of a class before its ratio is taken; here each task has its own.
    """

    name: ClassVar[str] = "foreground IoU"

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1], over the classes from 1 that occur in targets or predictions."""
        return super().value({name: counts[..., 1:] for name, counts in statistic.items()})


@dataclass(frozen=True)
class Pixels(Answer):
    """Which of ``k`` classes each pixel belongs to: semantic segmentation.

    Targets (n, height, width) integer ids, -1 where unknown; predictions (n, height, width, k)
    logits. The loss is cross-entropy, the score mean intersection over union.

    ``background``  whether class 0 is what belongs to no object: the first score is then the
                    intersection over union of the other classes.

    Raises ValueError for k < 2.
    """

    k: int
    background: bool = field(default=False, metadata=ADDED)
    kind: ClassVar[str] = "pixels"
    guess_name: ClassVar[str] = "commonest class of the support"

    def __post_init__(self) -> None:
        check_count("Pixels", "k", self.k, 2)

    @property
    def outputs(self) -> int:
        """k."""
        return self.k

    def check(self, targets: Any, what: str = "targets") -> None:
        """Integer ids (n, height, width)."""
        check_ids(targets, what, "segmentation", ("n", "height", "width"),
                  "Give the class of each pixel, -1 where it is unknown.")  # fmt: skip

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No id of ``k`` or more."""
        check_largest_id(
            targets, what, self.k, "Renumber the classes, or raise the spec's classes."
        )

    def known(self, targets: Tensor) -> Tensor:
        """(n, height, width): which pixels are known."""
        return targets >= 0

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(predictions)[target] of each pixel: (n, height, width)."""
        return cross_entropy(predictions, targets)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """One-hot pixels (n, height, width, k), zeros where unknown."""
        return one_hot(targets, self.k, dtype or torch.get_default_dtype())

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """The most probable class of each pixel: (n, height, width)."""
        predictions: Tensor = predictor(inputs)
        return predictions.argmax(-1)

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """(n, height, width, k)."""
        return (*targets.shape, self.k)

    @property
    def scores(self) -> tuple[Score, ...]:
        """Mean intersection over union of each task, then pooled over tasks.

        With a background, that of the other classes comes first.
        """
        means = MeanIoU(), PooledMeanIoU()
        return (ForegroundIoU(), *means) if self.background else means

    def join(self, other: Answer) -> Answer | None:
        """The one with more classes."""
        if not equal_but_for("k", self, other):
            return None
        return max(self, other, key=lambda each: each.outputs)

    def present(self, targets: Tensor, weights: Tensor) -> Tensor:
        """(k,): whether each class has a pixel in a row with weight."""
        has = one_hot(targets, self.k, weights.dtype).flatten(1, -2).amax(1)
        return weights @ has > 0

    def hide_absent(self, targets: Tensor, present: Tensor | None) -> Tensor:
        """Ids of absent classes replaced by -1."""
        return hide_absent(targets, present)

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """The class of most pixels of the support, for every pixel."""
        pixels = one_hot(support.targets, self.k, support.weights.dtype).flatten(1, -2).sum(1)
        logits = one_hot((support.weights @ pixels).argmax(), self.k, pixels.dtype)
        return [logits.expand(self.prediction_shape(query.targets))]

    def nearest_mean(self, support: Examples, query: Examples) -> Tensor | None:
        """The class whose mean colour is nearest, for each pixel alone.

        None unless inputs are real images (n, channels, height, width), or features (n, height,
        width, channels) as predictions have, of the targets' size.
        """
        colours = [_colours(part.inputs, part.targets) for part in (support, query)]
        if colours[0] is None or colours[1] is None:
            return None
        ids = support.targets.flatten()
        weights = support.weights[:, None, None].expand_as(support.targets).flatten()
        pixels = Examples(colours[0], ids, weights, torch.zeros_like(ids))
        logits = nearest_mean(pixels, colours[1], self.k)
        return None if logits is None else logits.reshape(self.prediction_shape(query.targets))


def _colours(images: Any, targets: Tensor) -> Tensor | None:
    """(n, channels, height, width), or with channels last, -> (pixels, channels); else None."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return None
    if images.shape[2:] == targets.shape[1:]:
        return images.movedim(1, -1).flatten(0, 2)
    return images.flatten(0, 2) if images.shape[:3] == targets.shape else None
