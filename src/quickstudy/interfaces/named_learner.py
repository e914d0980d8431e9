"""Learners by name, made for the inputs at hand and not trained on other tasks."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from quickstudy.answers import Classes
from quickstudy.backbones.conv4 import Conv4
from quickstudy.backbones.joined import Flat
from quickstudy.backbones.mlp import MLP
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.pretrained.registry import CARDS, PretrainedCard
from quickstudy.base.names import unknown_name
from quickstudy.core import Learner, TaskSpec, check_answer
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.interfaces.runs.featured import adapts_layers
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.simple_shot import SimpleShot

READY = (
    "prototypical", "matching", "meta_opt_net", "r2d2", "linear_probe", "svm", "linear_svm",
    "reweighted",
)  # fmt: skip
"""Learners that work on the inputs themselves where there is no trained backbone."""


def learner_for(
    learner: Any, default: Learner, shape: Sequence[int], spec: TaskSpec, who: str
) -> Learner:
    """A copy of ``learner``, which may be the name of one; ``default`` for None.

    The name of a pretrained backbone, such as "efficientnet-lite0", gives the nearest class mean of
    its features (:class:`SimpleShot`) or, for real numbers, ridge regression on them.

    A learner by name is made for rows of ``shape``, and no part of it is trained or pretrained.
    Where it works on features, these are the inputs themselves: for vectors and pictures alike that
    is as good as a random network. Learners that adapt a whole network get :class:`Conv4` for
    square pictures of 16 pixels or more, and :class:`MLP` otherwise, with weights that are the same
    in every call. Warns for a learner that would first have to be trained on many tasks.

    Raises ValueError, beginning with ``who``, for anything but a learner or a learner's name, and
    for rows that the backbone does not read; ImportError, with the command that installs it, where
    the package of a backbone is missing.
    """
    if learner is None:
        return default
    if isinstance(learner, Learner):
        return copy.deepcopy(learner)
    if not isinstance(learner, str):
        raise ValueError(
            f"{who}: learner must be a Learner or the name of one; found {learner!r}. Give for "
            'example qs.Prototypical(backbone), or "prototypical".'
        )
    if learner in CARDS:
        return _on_pretrained(CARDS[learner], shape, spec, who)
    if learner not in LEARNERS:
        raise unknown_name(f"{who}: learner", learner, {**LEARNERS, **CARDS})
    cls = resolve("learner", learner, LEARNERS)
    check_answer(cls, spec.answer)  # before a network is made that suits another kind
    if learner not in READY:
        classes = isinstance(spec.answer, Classes)
        others = f"one of {', '.join(READY)}" if classes else "linear_probe"
        guess = "chance" if classes else "the mean of y"
        warnings.warn(
            f"{who}: {learner!r} learns from many tasks how to adapt, but this one is untrained, "
            f"so its predictions may be no better than {guess}. Train one with qs.fit and give it "
            f"as learner, or use {others}.",
            stacklevel=4,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        takes = inspect.signature(cls).parameters
        if LEARNERS[learner].head:
            backbone = _network(shape, spec.outputs)
        elif adapts_layers(cls):  # parameters of the backbone, which must have some
            backbone = _network(shape, None)
        else:
            backbone = Flat(math.prod(shape))
        options = {"outputs": spec.outputs} if "outputs" in takes else {}
        made: Learner = cls(backbone, **options)
    return made


def _on_pretrained(
    facts: PretrainedCard, shape: Sequence[int], spec: TaskSpec, who: str
) -> Learner:
    if facts.reads != "pictures":
        raise ValueError(
            f"{who}: {facts.name} reads {facts.reads}, but X holds numbers. Give "
            f'qs.featurise(...) of qs.pretrained("{facts.name}") as X, or another backbone.'
        )
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"{who}: {facts.name} reads pictures, so X must be (n, channels, height, width) with 1 "
            f"or 3 channels; found (n, {', '.join(map(str, shape))}). Reshape X, or use another "
            "learner."
        )
    backbone = pretrained(facts.name)
    return SimpleShot(backbone) if isinstance(spec.answer, Classes) else LinearProbe(backbone)


def _network(shape: Sequence[int], outputs: int | None) -> nn.Module:
    if len(shape) == 3 and shape[1] == shape[2] >= 16:
        return Conv4(in_channels=shape[0], image_size=shape[1], outputs=outputs)
    return MLP(math.prod(shape), outputs=outputs)
