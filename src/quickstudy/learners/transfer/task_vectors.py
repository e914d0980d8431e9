"""Task vectors: what adapting to a task added to a network's weights; sums of them merge tasks.

    τ_t = θ_t - θ_0            of a predictor for task t, whose learner started at θ_0
    θ   = θ_0 + scale Σ_t τ_t

A cheap baseline for merging: no training, and one network for all tasks. ``scale`` 1 / t is the
average of the adapted networks; a negative one makes the network forget.

Heads are left out: they belong to the classes of their own tasks. Adapt the merged learner to a
support set for a head on its features, or keep the head that a predictor has, by :func:`remade`.

>>> import torch, quickstudy as qs
>>> from quickstudy.learners.transfer.task_vectors import merged, task_vector
>>> learner = qs.FineTune(qs.backbones.MLP(in_features=2), steps=5).eval()
>>> supports = [qs.examples(torch.eye(2), ids) for ids in ([0, 1], [1, 0])]
>>> vectors = [task_vector(learner(each, qs.classification(2))) for each in supports]
>>> both = merged(learner, vectors)

Reference: Ilharco et al. (2023), Editing Models with Task Arithmetic, section 2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from quickstudy.base.words import first_few
from quickstudy.core import Learner, Predictor
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.network import head_of
from quickstudy.learners.transfer.lora import LoRA, merged_weights

AnyLearner = TypeVar("AnyLearner", bound=Learner)


def task_vector(predictor: Predictor) -> Weights:
    """What adapting added to the weights of the network, by their names in it; without the head.

    Of LoRA, the products of the factors; their sums are meaningful, those of the factors are not.

    Raises ValueError for a learner that moves no weights of a network, and for one that moved the
    head alone.
    """
    learner, state = predictor.learner, predictor.state
    network = _network(learner)
    own = {name: p.detach() for name, p in network.named_parameters()}
    if isinstance(learner, LoRA):
        changed = {f"backbone.{n}": w for n, w in merged_weights(predictor).items()}
        found = {name: weight - own[name] for name, weight in changed.items()}
    elif isinstance(state, dict) and "difference" in state:
        found = dict(state["difference"])
    else:
        found = {name: w.detach() - own[name] for name, w in _weights(predictor).items()}
    if not found:
        raise ValueError(
            f"task_vector: {type(learner).__name__} moved nothing but a head, and heads of other "
            "tasks cannot be added. Let more adapt: adapts='all'."
        )
    return found


def merged(
    learner: AnyLearner, vectors: Sequence[Weights], scale: float | None = None
) -> AnyLearner:
    """A copy of ``learner`` that starts at θ_0 + scale * the sum of ``vectors``.

    ``scale``  by default one over the number of vectors: their average.

    Raises ValueError for no vectors, for vectors of other weights than the learner's network has or
    than one another, and for a scale that is not finite.
    """
    total = summed(vectors, scale)
    twin = copy.deepcopy(learner)
    parameters = dict(_network(twin).named_parameters())
    wrong = [
        name for name, change in total.items()
        if name not in parameters or parameters[name].shape != change.shape
    ]  # fmt: skip
    if wrong:
        raise ValueError(
            f"merged: the vectors must be of the weights of this {type(learner).__name__}, which "
            f"has no {first_few(wrong, 3)} of that shape. Take vectors of predictors that it made."
        )
    with torch.no_grad():
        for name, change in total.items():
            parameters[name].add_(change)
    return twin


def summed(vectors: Sequence[Weights], scale: float | None = None) -> Weights:
    """scale * the sum of ``vectors``, by default their average.

    Raises ValueError for no vectors, for vectors of different weights, and for a scale that is not
    finite.
    """
    if not vectors:
        raise ValueError("merged: needs at least 1 task vector; found none.")
    names = vectors[0].keys()
    if any(vector.keys() != names for vector in vectors):
        every = {name for vector in vectors for name in vector}
        unlike = sorted(name for name in every if any(name not in v for v in vectors))
        raise ValueError(
            "merged: all vectors must be of the same weights, but only some have "
            f"{first_few(unlike, 3)}. Take predictors of one learner."
        )
    scale = 1 / len(vectors) if scale is None else scale
    if not math.isfinite(scale):
        raise ValueError(f"merged: scale must be a finite number; found {scale}.")
    return {name: scale * torch.stack([v[name] for v in vectors]).sum(0) for name in names}


def remade(
    predictor: Predictor, vectors: Sequence[Weights], scale: float | None = None
) -> Predictor:
    """``predictor`` with its own head, on the features of the merged network.

    Raises ValueError where :func:`merged` does, and for a predictor of another learner than
    FineTune: other states do not hold differences of weights apart from a head.
    """
    state, learner = predictor.state, predictor.learner
    if isinstance(learner, LoRA) or not (isinstance(state, dict) and "difference" in state):
        raise ValueError(
            f"remade: needs a predictor of FineTune; found one of {type(learner).__name__}. Adapt "
            "the result of merged() to a support set instead."
        )
    merged(learner, vectors, scale)  # only to refuse vectors that do not fit
    return replace(predictor, state=state | {"difference": summed(vectors, scale)})


def _network(learner: Learner) -> nn.Module:
    network = getattr(learner, "adapted_network", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"task_vector: {type(learner).__name__} moves no weights of a network when it adapts. "
            "Take FineTune, LoRA or a gradient learner, such as MAML."
        )
    return network


def _weights(predictor: Predictor) -> Weights:
    """The adapted weights of a gradient learner's network, without those of its head."""
    learner: Any = predictor.learner
    headed = head_of(_network(learner)) is not None or head_of(learner.backbone) is not None
    names = {n for n, _ in _network(learner).named_parameters()}
    return {
        name: weight for name, weight in predictor.state["weights"].items()
        if name in names and not (name.startswith("head.") and (headed or _is_own_head(learner)))
    }  # fmt: skip


def _is_own_head(learner: Any) -> bool:
    """Whether the learner itself adds the head, as ProtoMAML does."""
    return _network(learner) is not learner.backbone
