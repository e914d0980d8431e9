"""A learner on features gets its backbone back, so that it reads pictures or texts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

from torch import nn

from quickstudy.backbones.features import feature_size
from quickstudy.backbones.joined import Chain
from quickstudy.core import Learner, Predictor

Thing = TypeVar("Thing", Learner, Predictor)
AnyLearner = TypeVar("AnyLearner", bound=Learner)


def with_backbone(thing: Thing, backbone: nn.Module) -> Thing:
    """``thing``, which works on features of ``backbone``, for the inputs of ``backbone`` instead.

    Training and comparing on features that :func:`quickstudy.featurise` computed once costs little;
    what is used afterwards must take pictures or texts. A learner whose backbone leaves features
    as they are (:class:`quickstudy.backbones.Features`) gets ``backbone`` in its place; for any
    other, ``backbone`` computes what its own network reads. Parameters are shared, and nothing is
    changed in ``thing``.

    Raises ValueError for a learner without ``backbone`` and for one that adapts its weights, whose
    state names them: make that one with :class:`quickstudy.backbones.Chain` or
    :class:`quickstudy.backbones.WithHead`; and for a backbone of another number of features.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.pretrained("efficientnet-lite0", size=32)
    >>> learner = qs.Prototypical(qs.backbones.Features(backbone.features))
    >>> pictures = qs.examples(torch.rand(4, 3, 32, 32), [0, 1, 0, 1])
    >>> support = qs.featurise(pictures, backbone, cache=False)
    >>> predictor = learner(support, qs.classification(ways=2))
    >>> qs.with_backbone(predictor, backbone)(pictures.inputs).shape
    torch.Size([4, 2])
    """
    if isinstance(thing, Predictor):
        learner = with_backbone(thing.learner, backbone)
        return replace(thing, learner=learner, no_rows=None)
    own = getattr(thing, "backbone", None)
    adapts = hasattr(thing, "adapted")  # a gradient learner
    if not isinstance(own, nn.Module) or adapts:
        raise ValueError(
            f"with_backbone: needs a learner with a backbone that does not adapt; found "
            f"{type(thing).__name__}. Make it with the backbone inside: "
            "qs.backbones.WithHead(backbone, outputs), or Chain(backbone, network)."
        )
    given, wanted = feature_size(backbone, "with_backbone"), _read_by(own)
    if wanted not in (None, given):
        raise ValueError(
            f"with_backbone: the learner reads {wanted} features, but this backbone gives {given}. "
            "Give the backbone that its features were computed with."
        )
    return on_backbone(thing, backbone if isinstance(own, nn.Identity) else Chain(backbone, own))


def on_backbone(learner: AnyLearner, backbone: nn.Module) -> AnyLearner:
    """A copy of ``learner`` with ``backbone`` in place of its own; they share all else."""
    twin = copy.copy(learner)
    twin._modules = learner._modules | {"backbone": backbone}
    return twin


def _read_by(network: nn.Module) -> int | None:
    """The number of features that ``network`` reads, where it declares it."""
    shape = getattr(network, "input_shape", None)
    return shape[0] if shape is not None and len(shape) == 1 else None
