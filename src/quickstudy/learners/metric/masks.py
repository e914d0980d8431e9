"""Masks at the size of feature maps, and predictions of maps at the size of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.feature_maps import resized
from quickstudy.core import Answer, TaskSpec
from quickstudy.tasks.examples import without_absent


def shares_of_classes(masks: Tensor, answer: Answer, maps: Tensor) -> Tensor:
    """The share of each class in the area of each cell of ``maps`` (n, c, h, w): (n, k, h, w).

    ``masks`` (n, height, width) are class ids, -1 where unknown, which counts for no class.
    """
    return reduced(answer.encode(masks, maps.dtype).movedim(-1, 1), maps.shape[-2:])


def reduced(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The mean of each of height x width areas of maps (n, c, h, w): (n, c, *size)."""
    height, width = size
    return F.adaptive_avg_pool2d(maps, (height, width))


def extent_of(masks: Tensor, like: Tensor) -> Tensor:
    """(h, w, 0), without a number: its shape keeps the size of the masks in a state."""
    return like.new_zeros((*masks.shape[1:], 0))


def at_extent(logits: Tensor, state: dict[str, Tensor], spec: TaskSpec) -> Tensor:
    """Logits (n, k, h', w') as predictions (n, h, w, k), of the size of the support's masks."""
    whole = resized(logits, state["extent"].shape[:2]).movedim(1, -1)
    return without_absent(whole, state["present"])


def refuse_vectors(backbone: nn.Module, who: str) -> None:
    """ValueError for a backbone that declares features without positions, or a head."""
    shape = getattr(backbone, "feature_shape", None)
    vectors = shape is None and isinstance(getattr(backbone, "features", None), int)
    if vectors or (shape is not None and len(shape) != 3):
        found = (getattr(backbone, "features", None),) if shape is None else tuple(shape)
        raise ValueError(
            f"{who}: needs a backbone that gives maps (n, channels, height, width); found features "
            f"of shape {found} from {type(backbone).__name__}. Use for example "
            "Conv4(pools=2, flat=False), or JoinedMaps on a pretrained backbone with maps=True."
        )


def checked_maps(maps: Tensor, who: str) -> Tensor:
    """``maps``; ValueError for a backbone that gave no maps (n, channels, height, width)."""
    if maps.ndim == 4:
        return maps
    raise ValueError(
        f"{who}: needs a backbone that gives maps (n, channels, height, width); found shape "
        f"{tuple(maps.shape)}. Leave its pooling to one vector out: Conv4(flat=False)."
    )


def odds_against_others(logits: Tensor, present: Tensor) -> Tensor:
    """log p_k - log sum of the other present classes, for (n, k, ...): of a class against the rest.

    Large and finite where there is no other class.
    """
    least = max(torch.finfo(logits.dtype).min / 4, -1e30)
    shape = (-1, *[1] * (logits.ndim - 2))
    known = logits.where(present.reshape(shape), least)
    k = logits.shape[1]
    same = torch.eye(k, dtype=torch.bool, device=logits.device).reshape(k, k, *shape[1:])
    rest = known.unsqueeze(1).where(~same, least)  # (n, class, other class, ...)
    return (known - rest.logsumexp(2)).clamp(-_MOST, _MOST)


_MOST = 20.0
"""Log odds beyond which a class is certain."""
