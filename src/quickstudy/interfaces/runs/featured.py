"""Runs on the features of a frozen pretrained backbone, which are computed once for each picture.

A task then costs microseconds instead of seconds. What needs the pictures themselves (the baseline
of raw inputs, the fingerprint, the report) gets smaller ones.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.backbones.joined import Features
from quickstudy.backbones.pretrained.features import featurise
from quickstudy.backbones.pretrained.source import source_of
from quickstudy.base.door import to_unit
from quickstudy.base.modules import raw_bytes
from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.learners.transfer.tuned_learner import TunedLearner
from quickstudy.learners.with_backbone import on_backbone
from quickstudy.selection.recommending.on_pretrained import shrunk
from quickstudy.tasks.rows import LabelledRows


@dataclass(frozen=True)
class Featured:
    """A data set twice: with features in place of pictures, and with smaller pictures.

    Splits of which no features are needed still have their pictures in both.
    """

    features: Dataset
    pictures: Dataset
    splits: tuple[str, ...]

    @cached_property
    def small(self) -> Dataset:
        """The data set with smaller pictures, which are made when they are first needed."""
        return with_small_pictures(self.pictures, self.splits)


def featured(data: Dataset, backbone: nn.Module, splits: Sequence[str]) -> Featured:
    """The ``splits`` of ``data`` as features of ``backbone``, and as smaller pictures."""
    chosen = tuple(name for name in splits if len(data.splits[name]))
    features = {name: featurise(data.splits[name], backbone) for name in chosen}
    return Featured(with_splits(data, features), data, chosen)


def with_small_pictures(data: Dataset, splits: Sequence[str]) -> Dataset:
    """``data`` with smaller pictures in ``splits``."""
    return with_splits(data, {name: shrunk(data.splits[name]) for name in splits})


def with_splits(data: Dataset, splits: Mapping[str, LabelledRows]) -> Dataset:
    """``data`` with other rows in the ``splits`` that are given."""
    train, val, test = ({**data.splits, **splits}[name] for name in ("train", "val", "test"))
    return replace(data, train=train, val=val, test=test)


def is_fixed(learner: Learner) -> bool:
    """Whether ``learner`` reads pictures only through a pretrained backbone that is frozen."""
    backbone = getattr(learner, "backbone", None)
    if not isinstance(backbone, nn.Module) or source_of(backbone) is None:
        return False
    moved = getattr(learner, "adapted", None)  # () where only a head on the backbone moves
    if moved or (moved is None and adapts_layers(type(learner))):
        return False
    return not any(p.requires_grad for p in backbone.parameters()) and not backbone.training


def adapts_layers(learner: type[Learner]) -> bool:
    """Whether a learner changes layers of its backbone for each task."""
    return issubclass(learner, TunedLearner) or "adapts" in inspect.signature(learner).parameters


def on_features(learner: Learner) -> Learner:
    """``learner`` for features in place of pictures; the two share all parameters."""
    return on_backbone(learner, Features(_size(learner)))


def on_small_pictures(learner: Learner, data: Featured, split: str) -> Learner:
    """``learner`` for the small pictures of ``split``, whose features it knows."""
    small, features = data.small.splits[split], data.features.splits[split]
    return on_backbone(learner, _Remembered(backbone_of(learner), small, features))


def backbone_of(learner: Learner) -> nn.Module:
    """The backbone of a learner that has one."""
    return cast("nn.Module", learner.backbone)


def _size(learner: Learner) -> int:
    return cast("int", backbone_of(learner).features)


class _Remembered(nn.Module):
    """Pictures (n, channels, side, side) -> the features that were computed of them before."""

    def __init__(self, backbone: nn.Module, small: LabelledRows, features: LabelledRows) -> None:
        super().__init__()
        self.backbone, self.features = backbone, cast("int", backbone.features)
        keys = [_key(row) for part in small.inputs.split(64) for row in to_unit(part)]
        self._known = dict(zip(keys, features.inputs, strict=True))

    def forward(self, pictures: Tensor) -> Tensor:
        """Features (n, ``features``)."""
        found = [self._known.get(_key(row)) for row in pictures.detach()]
        if any(row is None for row in found):
            made: Tensor = self.backbone(pictures)
            return made
        return torch.stack([row for row in found if row is not None]).to(pictures)


def _key(picture: Tensor) -> bytes:
    return hashlib.blake2b(raw_bytes(picture), digest_size=16).digest()
