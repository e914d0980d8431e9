"""Prototypical segmentation: each pixel belongs to the class whose mean feature is most similar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.pixels import Pixels
from quickstudy.backbones.feature_maps import of_unit_length
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.metric.masks import (
    at_extent,
    checked_maps,
    extent_of,
    refuse_vectors,
    shares_of_classes,
)
from quickstudy.objectives import Outcome, mean_loss, predict_rows, score_of
from quickstudy.tasks.examples import labelled, require_given


def aligned_loss(learner: Learner, task: Task) -> Outcome:
    """The query loss, plus ``alignment`` times the loss of the way back (section 3.5).

    On the way back, the queries with the masks that were predicted for them are the support set,
    and the support pictures are segmented. Classes that no query pixel was given are left out.

    Raises TypeError for a learner other than :class:`PrototypicalSegmentation`.
    """
    if not isinstance(learner, PrototypicalSegmentation):
        raise TypeError(
            f"aligned_loss: needs PrototypicalSegmentation; found {type(learner).__name__}."
        )
    query, answer = require_given(task.query), task.spec.answer
    predictor = learner(task.support, task.spec)
    predictions, state = predict_rows(predictor, query), predictor.state
    loss = mean_loss(predictions, query, answer, state["present"])
    if learner.alignment:
        found = query._replace(targets=predictions.argmax(-1).where(query.targets >= 0, -1))
        back = learner(found, task.spec)
        support = labelled(require_given(task.support), answer)
        segmented = predict_rows(back, support)
        loss = loss + learner.alignment * mean_loss(
            segmented, support, answer, back.state["present"]
        )
    return Outcome(loss, score_of(predictions, query, answer))


class PrototypicalSegmentation(Learner):
    """Maps pictures with masks to prototypes, which classify each position of a feature map.

        p_c    = sum_i w_i p_ic / sum_i w_i,   p_ic = sum_x m_ic(x) f(x_i)(x) / sum_x m_ic(x)
        logits = scale * cos(f(x), p_c), enlarged to the size of the masks

    with m_ic(x) the share of class c in the area of position x; the sum over i is over the pictures
    that have class c (masked average pooling).

    ``backbone``   pictures (n, ...) -> maps (n, channels, height, width).
    ``scale``      factor on the cosine; 20 in the paper.
    ``alignment``  weight of the loss of the way back in training, see :func:`aligned_loss`; 1 in
                   the paper, 0 for none.

    State: ``prototypes`` (k, channels); ``present`` (k,), whether a class has a pixel; ``extent``
    (h, w, 0), whose shape is the size of the masks; ``statistics`` for norm="support".

    Raises ValueError for a scale that is not positive, a negative alignment, and a backbone of
    vectors.

    Reference: Wang, Liew, Zou, Zhou and Feng (2019), PANet: Few-Shot Image Semantic Segmentation
    with Prototype Alignment.
    Differs from the paper in masks reduced to the size of the maps, where it enlarges the maps to
    that of the masks; on the way back in all classes of a task at once, where it takes each with
    the background alone; and in row weights, which are 1 there.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.backbones.Conv4(channels=8, image_size=16, pools=1, flat=False)
    >>> learner = qs.PrototypicalSegmentation(backbone)
    >>> pictures = torch.rand(2, 1, 16, 16)
    >>> support = qs.examples(pictures, (pictures[:, 0] > 0.5).long())
    >>> learner(support, qs.segmentation(2))(pictures).shape
    torch.Size([2, 16, 16, 2])
    """

    answers = (Pixels,)
    objective: Callable[[Learner, Task], Any] = staticmethod(aligned_loss)
    exceptions: ClassVar[Mapping[str, str]] = {
        "unknown_element_is_absent": "the mean of each picture's pixels counts once, however many "
        "of them are known (equation 1)"
    }

    def __init__(self, backbone: nn.Module, scale: float = 20.0, alignment: float = 1.0) -> None:
        super().__init__()
        if scale <= 0 or alignment < 0:
            raise ValueError(
                "PrototypicalSegmentation: scale must be positive and alignment at least 0; found "
                f"scale={scale}, alignment={alignment}."
            )
        refuse_vectors(backbone, "PrototypicalSegmentation")
        self.backbone, self.scale, self.alignment = backbone, scale, alignment

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The prototypes of ``support``."""
        support = labelled(support, spec.answer)
        maps, statistics = embed_support(self.backbone, support)
        maps = checked_maps(maps, "PrototypicalSegmentation")
        shares = shares_of_classes(support.targets, spec.answer, maps)
        tiny = torch.finfo(maps.dtype).tiny
        areas = shares.sum((2, 3))
        pooled = torch.einsum("nkhw,nchw->nkc", shares, maps) / areas.unsqueeze(-1).clamp_min(tiny)
        counts = support.weights.to(maps.dtype).unsqueeze(-1) * (areas > 0)
        prototypes = torch.einsum("nk,nkc->kc", counts, pooled)
        return {
            "prototypes": prototypes / counts.sum(0).unsqueeze(-1).clamp_min(tiny),
            "present": counts.sum(0) > 0,
            "extent": extent_of(support.targets, maps),
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, h, w, k), of the size of the support's masks."""
        maps = of_unit_length(self.embed(state, inputs), 1)
        cosines = torch.einsum("nchw,kc->nkhw", maps, of_unit_length(state["prototypes"]))
        return at_extent(self.scale * cosines, state, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Maps (n, channels, height, width), in the same space as the prototypes."""
        maps = embed_query(self.backbone, inputs, state["statistics"])
        return checked_maps(maps, "PrototypicalSegmentation")
