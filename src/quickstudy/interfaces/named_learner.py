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
from quickstudy.backbones.mlp import MLP
from quickstudy.core import Learner, TaskSpec
from quickstudy.files.registry import LEARNERS, resolve

READY = (
    "prototypical", "matching", "meta_opt_net", "r2d2", "linear_probe", "svm", "linear_svm",
    "reweighted",
)  # fmt: skip
"""Learners that work on the inputs themselves where there is no trained backbone."""


class Inputs(nn.Flatten):
    """Inputs (n, ...) as features (n, ``features``), unchanged."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


def learner_for(
    learner: Any, default: Learner, shape: Sequence[int], spec: TaskSpec, who: str
) -> Learner:
    """A copy of ``learner``, which may be the name of one; ``default`` for None.

    A learner by name is made for rows of ``shape``, and no part of it is trained or pretrained.
    Where it works on features, these are the inputs themselves: for vectors and pictures alike that
    is as good as a random network. Learners that adapt a whole network get :class:`Conv4` for
    square pictures of 16 pixels or more, and :class:`MLP` otherwise, with weights that are the same
    in every call. Warns for a learner that would first have to be trained on many tasks.

    Raises ValueError, beginning with ``who``, for anything but a learner or a learner's name.
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
    cls = resolve("learner", learner, LEARNERS)
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
        elif "adapts" in takes:  # parameters of the backbone, which must have some
            backbone = _network(shape, None)
        else:
            backbone = Inputs(math.prod(shape))
        options = {"outputs": spec.outputs} if "outputs" in takes else {}
        made: Learner = cls(backbone, **options)
    return made


def _network(shape: Sequence[int], outputs: int | None) -> nn.Module:
    if len(shape) == 3 and shape[1] == shape[2] >= 16:
        return Conv4(in_channels=shape[0], image_size=shape[1], outputs=outputs)
    return MLP(math.prod(shape), outputs=outputs)
