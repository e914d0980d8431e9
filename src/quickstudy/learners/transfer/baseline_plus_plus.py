"""Baseline++: a cosine classifier, fitted to each support set by gradient steps on its features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.metric.distances import unit
from quickstudy.tasks.examples import labelled, without_absent

MOMENTUM, DAMPENING = 0.9, 0.9
"""Of the steps, as in the paper's code: after the first, v <- 0.9 v + 0.1 gradient."""


class BaselinePlusPlus(Learner):
    """Maps a support set to a classifier by cosine similarity on fixed features.

        logit_k = scale * g_k * cos(f(x), v_k)
        (v, g) <- (v, g) - rate * momentum of ∇ [cross entropy of the support + decay/2 |(v, g)|²]

    v_k (d,) is the weight vector of class k, and g_k a factor of its own; both start from random
    weights, the same in every task, with g_k = |v_k|. Each of ``steps`` steps reads the whole
    support set. ``adapt`` does not change the backbone.

    ``backbone``  inputs (n, ...) -> features (n, d), as a rule a pretrained one that is frozen.
    ``steps``     default 400. The paper's code takes 100 passes in batches of 4: 200 steps for 5
                  rows, 700 for 25.
    ``rate``      0.01, ``decay`` 0.001, ``scale`` 2 and the momentum, 0.9 with dampening 0.9, are
                  those of the paper's code.
    ``seed``      of the random weights.

    State: ``weight`` (d, ways), the columns g_k v_k / |v_k|; ``present`` (ways,), whether a class
    has weight (others get probability 0); ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive (``decay`` may be 0), and for a backbone
    with a head or with maps.

    Reference: Chen, Liu, Kira, Wang and Huang (2019), A Closer Look at Few-shot Classification,
    section 3.2, and the code published with it.
    Differs from the paper in three points. Steps read all support rows, not random batches of 4,
    so that neither the order of rows nor chance matters and rows may have weights. The backbone is
    given: the paper trains it on the base classes with such a classifier of its own. Where ``fit``
    trains it here, it does so through the steps, by the loss on the queries.

    >>> import quickstudy as qs
    >>> learner = qs.BaselinePlusPlus(qs.frozen(qs.backbones.MLP(in_features=2)))
    >>> support = qs.examples([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).argmax(-1)
    tensor([0, 1])
    """

    answers = (Classes,)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "each class starts from random weights of its own",
    }

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 400,
        rate: float = 0.01,
        decay: float = 0.001,
        scale: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_sizes("BaselinePlusPlus", steps=steps)
        if rate <= 0 or scale <= 0 or decay < 0:
            raise ValueError(
                "BaselinePlusPlus: rate and scale must be positive, and decay at least 0; found "
                f"rate={rate}, scale={scale}, decay={decay}."
            )
        refuse_heads_and_maps(backbone, "BaselinePlusPlus")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.decay, self.scale, self.seed = decay, scale, seed

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The classifier after ``steps`` steps on ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        targets = one_hot(support.targets, spec.outputs, features.dtype)
        counts = support.weights.to(features.dtype)
        weight = self._fitted(unit(features), targets, counts)
        return {"weight": weight, "present": counts @ targets > 0, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        features = self.embed(state, inputs)
        return without_absent(self.scale * (features @ state["weight"]), state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of length 1, which the classifier reads."""
        return unit(embed_query(self.backbone, inputs, state["statistics"]))

    def _fitted(self, features: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """Weights (d, ways) for features (n, d) of length 1, one-hot targets and row weights."""
        first = self._first(targets.shape[1], features)
        factors = first.norm(dim=0)
        # All steps stay in the span of the rows and the first vectors. So we step on the
        # coefficients (n + ways, ways) there, for which only the products of rows are needed.
        rows = torch.cat([features, first.mT])
        products, n = rows @ rows.mT, len(features)
        coefficients = F.pad(torch.eye(targets.shape[1]).to(products), (0, 0, n, 0))
        present = counts @ targets > 0
        shares = counts / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
        velocity: tuple[Tensor, Tensor] | None = None
        for _ in range(self.steps):
            projected = products @ coefficients
            lengths = (coefficients * projected).sum(0).sqrt()
            cosines = projected[:n] / lengths
            logits = without_absent(self.scale * factors * cosines, present)
            errors = self.scale * shares.unsqueeze(-1) * (logits.softmax(-1) - targets)
            by_factor = (errors * cosines).sum(0)
            # Only the part across a vector changes its direction.
            across = F.pad(errors, (0, 0, 0, len(rows) - n)) - coefficients / lengths * by_factor
            by_vector = factors / lengths * across + self.decay * coefficients
            by_factor = by_factor + self.decay * factors
            if velocity is None:
                velocity = by_vector, by_factor
            else:
                velocity = (
                    MOMENTUM * velocity[0] + (1 - DAMPENING) * by_vector,
                    MOMENTUM * velocity[1] + (1 - DAMPENING) * by_factor,
                )
            coefficients = coefficients - self.rate * velocity[0]
            factors = factors - self.rate * velocity[1]
        vectors = rows.mT @ coefficients
        weight: Tensor = factors * vectors / vectors.norm(dim=0)
        return weight

    def _first(self, ways: int, like: Tensor) -> Tensor:
        """Random weights (d, ways), uniform as those of ``torch.nn.Linear``.

        Those of a class do not depend on the number of classes. Drawn by numpy, since torch draws
        nothing under ``vmap``.
        """
        d = like.shape[-1]
        drawn = np.random.default_rng(self.seed).uniform(-1, 1, (ways, d)) / math.sqrt(d)
        first: Tensor = torch.from_numpy(drawn).to(like).mT
        return first
