"""Dense matching: each cell of a query votes by its similarity to every cell of the support."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.pixels import Pixels
from quickstudy.backbones.feature_maps import of_unit_length, resized, unit
from quickstudy.backbones.features import feature_shape, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.metric.masks import (
    at_extent,
    checked_maps,
    extent_of,
    odds_against_others,
    reduced,
    refuse_vectors,
    shares_of_classes,
)
from quickstudy.objectives import Outcome, mean_loss, predict_rows, present_in, score_of
from quickstudy.tasks.examples import labelled, require_given, weighted_mean


def overlap_loss(learner: Learner, task: Task) -> Outcome:
    """The query loss, plus 1 - the soft intersection over union, the mean over classes.

        1 - sum_x p_k(x) y_k(x) / sum_x (p_k(x) + y_k(x) - p_k(x) y_k(x))

    over the known pixels x of all queries, with probabilities p and true classes y. Cross-entropy
    alone counts pixels, most of them background; the score counts what objects overlap. As in the
    score, a background is no class of its own.

    Reference: Rahman and Wang (2016), Optimizing Intersection-Over-Union in Deep Neural Networks
    for Image Segmentation, equation 3.
    """
    query, answer = require_given(task.query), task.spec.answer
    predictor = learner(task.support, task.spec)
    predictions, present = predict_rows(predictor, query), present_in(predictor.state)
    loss = mean_loss(predictions, query, answer, present)
    targets = answer.hide_absent(query.targets, present)
    counts = query.weights.reshape(-1, 1, 1) * answer.known(targets)
    true = answer.encode(answer.fill(targets), predictions.dtype)
    shares = predictions.softmax(-1)
    each = counts.unsqueeze(-1)
    both = (each * shares * true).flatten(0, 2).sum(0)
    either = (each * (shares + true - shares * true)).flatten(0, 2).sum(0)
    occurs = (each * true).flatten(0, 2).sum(0) > 0
    first = int(getattr(answer, "background", False))
    overlap = both / either.clamp_min(torch.finfo(either.dtype).tiny)
    lost = weighted_mean((1 - overlap)[first:], occurs[first:].to(overlap.dtype))
    return Outcome(loss + lost, score_of(predictions, query, answer))


_SCALE_OF_ODDS = 0.1
"""Log odds as the decoder reads them, so that they are about as large as the features."""


class DenseMatching(Learner):
    """Maps pictures with masks to the features of all their cells, with the classes of each.

        v_mk   = w_m s_mk / sum_m w_m s_mk
        e_k(x) = log sum_m v_mk exp(scale * cos(f(x), f_m))
        logits = e_k(x) + g(odds_k, p_k, f)(x), enlarged to the size of the masks

    for the support cells m, with s_mk the share of class k in the area of cell m. Each class has
    the same total of v (class-balanced softmax), so that the background, most of a picture, does
    not outvote a small object; p = softmax e, and odds_k is the log odds of class k against the
    others. The decoder g (3x3 convolutions at three resolutions) is the same for every class: it
    learns which shapes of evidence are objects. Training minimises :func:`overlap_loss`.

    ``backbone``  pictures (n, ...) -> maps (n, channels, height, width).
    ``keys``      side of the support's maps, to which larger ones are reduced; those of queries
                  keep their size.
    ``scale``     factor on the cosine at the start; it is learnt.
    ``width``     channels of the decoder; 0 for no decoder: then nothing but the scale is learnt
                  over a frozen backbone.

    State: ``keys`` (cells, channels), of length 1; ``values`` (cells, k), v; ``present`` (k,);
    ``extent`` (h, w, 0), whose shape is the size of the masks; ``statistics`` for norm="support".

    Raises ValueError for a scale that is not positive, sizes out of range, and a backbone of
    vectors, or, with a decoder, one that does not declare its ``feature_shape``.

    Reference: Shi, Wei, Zhang, Lu, Ning, Chen, Ma and Zheng (2022), Dense Cross-Query-and-Support
    Attention Weighted Mask Aggregation for Few-Shot Segmentation, equation 3.
    Differs from the paper in one map joined of several layers, where it attends in each; in the
    cosine, where it has dot products of projections; in the balance of the classes; and in the
    decoder, which works for any number of classes.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.backbones.Conv4(channels=8, image_size=16, pools=1, flat=False)
    >>> learner = qs.DenseMatching(backbone, keys=4)
    >>> pictures = torch.rand(2, 1, 16, 16)
    >>> support = qs.examples(pictures, (pictures[:, 0] > 0.5).long())
    >>> learner(support, qs.segmentation(2))(pictures).shape
    torch.Size([2, 16, 16, 2])
    """

    answers = (Pixels,)
    objective: Callable[[Learner, Task], Any] = staticmethod(overlap_loss)

    def __init__(
        self, backbone: nn.Module, keys: int = 16, scale: float = 20.0, width: int = 32
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"DenseMatching: scale must be positive; found {scale}.")
        refuse_sizes("DenseMatching", keys=keys, **({"width": width} if width else {}))
        refuse_vectors(backbone, "DenseMatching")
        self.backbone, self.keys, self.scale, self.width = backbone, keys, scale, width
        self.log_scale = like(backbone, nn.Parameter(torch.tensor(math.log(scale))))
        if width:
            channels = feature_shape(backbone, "DenseMatching")[0]
            self.decoder: nn.Module = like(backbone, _Decoder(channels, width))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The cells of ``support``, with the share of each in its class."""
        support = labelled(support, spec.answer)
        maps, statistics = embed_support(self.backbone, support)
        maps = checked_maps(maps, "DenseMatching")
        size = [min(self.keys, side) for side in maps.shape[-2:]]
        cells = reduced(of_unit_length(maps, 1), size)
        shares = shares_of_classes(support.targets, spec.answer, cells)
        shares = support.weights.to(maps.dtype).reshape(-1, 1, 1, 1) * shares
        values = shares.movedim(1, -1).flatten(0, 2)
        totals = values.sum(0)
        return {
            "keys": of_unit_length(cells.movedim(1, -1).flatten(0, 2)),
            "values": values / totals.clamp_min(torch.finfo(maps.dtype).tiny),
            "present": totals > 0,
            "extent": extent_of(support.targets, maps),
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, h, w, k), of the size of the support's masks."""
        maps = self.embed(state, inputs)
        evidence = self._evidence(state, maps)
        if self.width:
            odds = odds_against_others(evidence, state["present"])
            evidence = evidence.where(state["present"].reshape(-1, 1, 1), 0.0)
            evidence = evidence + self.decoder(odds, maps)
        return at_extent(evidence, state, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Maps (n, channels, height, width), in the same space as the keys."""
        return checked_maps(
            embed_query(self.backbone, inputs, state["statistics"]), "DenseMatching"
        )

    def _evidence(self, state: State, maps: Tensor) -> Tensor:
        """e_k: (n, k, height, width)."""
        cells = of_unit_length(maps, 1).movedim(1, -1)
        similar = self.log_scale.exp() * (cells @ state["keys"].mT)
        most = similar.amax(-1, keepdim=True).detach()
        summed = (similar - most).exp() @ state["values"]
        # A class of no cell has no evidence; its logit is replaced later.
        log: Tensor = summed.clamp_min(torch.finfo(maps.dtype).tiny).log() + most
        return log.movedim(-1, 1)


class _Decoder(nn.Module):
    """Log odds (n, k, h, w) and maps (n, channels, h, w) -> what is added to the evidence.

    Each class is read by itself. Its evidence passes three resolutions, halved each time, and back.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels, width, 1)
        self.join = nn.Conv2d(2, width, 3, padding=1)
        self.down = nn.ModuleList(unit(width, width) for _ in range(3))
        self.up = nn.ModuleList(unit(width, width) for _ in range(2))
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, odds: Tensor, maps: Tensor) -> Tensor:
        """(n, k, h, w)."""
        n, k = odds.shape[:2]
        each = torch.stack([_SCALE_OF_ODDS * odds, odds.sigmoid()], 2)
        h = self.join(each.flatten(0, 1)).unflatten(0, (n, k)) + self.read(maps).unsqueeze(1)
        found: list[Tensor] = []
        h = h.flatten(0, 1).relu()
        for level in self.down:
            h = level(h if not found else F.avg_pool2d(h, 2, ceil_mode=True))
            found.append(h)
        for level, finer in zip(self.up, found[-2::-1], strict=True):
            h = level(finer + resized(h, finer.shape[-2:]))
        logits: Tensor = self.last(h).squeeze(1).unflatten(0, (n, k))
        return logits
