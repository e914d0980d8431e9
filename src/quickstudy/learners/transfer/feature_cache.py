"""Feature cache: each support row votes for its class, by its similarity to the query."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec, check_answer
from quickstudy.learners.extending import refuse_shared_statistics, widened
from quickstudy.learners.metric.distances import unit
from quickstudy.tasks.examples import labelled, without_absent

FIRST_DECAY, SECOND_DECAY, EPSILON, WEIGHT_DECAY = 0.9, 0.999, 1e-4, 0.01
"""Of AdamW, which learns the keys: its defaults, but for the epsilon of the paper's code."""


class FeatureCache(Learner):
    """Maps a support set to a cache of its features, added to the logits of another learner.

        F_j     = f(x_j) / |f(x_j)|,  L_j = one-hot y_j              for support row j
        A_j(x)  = exp(-beta * (1 - cos(f(x), F_j)))
        logits  = alpha * sum_j w_j A_j(x) L_j + initial logits

    With ``steps``, the keys F are learnt: full passes of AdamW at ``rate``, falling to 0 along a
    cosine, lower the cross entropy of these logits on the support set (Tip-Adapter-F). Values and
    initial logits stay.

    ``backbone``  inputs (n, ...) -> features (n, d), as a rule a pretrained one that is frozen.
    ``initial``   the learner that gives the initial logits, from *features* of length 1 (n, d) as
                  its inputs: ``qs.SimpleShot(nn.Identity())``, or one of your own that multiplies
                  them with the embedded names of classes, as in the paper. None for no such logits.
    ``alpha``     factor on the cache; 1.17 is where the search of the paper's code starts.
    ``beta``      how fast a vote falls with the distance; 1 for the same reason. The larger, the
                  more the nearest row alone decides. The paper chooses both by validation.
    ``steps``     of learning the keys; 0 for the cache as it is, 20 in the paper.
    ``rate``      of these steps; 0.001 in the paper.

    State: ``keys`` (n, d); ``values`` (n, ways), one-hot times weight; ``present`` (ways,), whether
    a class has weight (others get probability 0); ``initial``, the state of that learner or empty;
    ``statistics`` for norm="support". Without steps, :meth:`extend` adds rows and classes later.

    Raises ValueError for numbers that are not positive, for a backbone with a head or with maps,
    and for an ``initial`` that is no learner of classes.

    Reference: Zhang, Zhang, Fang, Gao, Li, Dai, Qiao and Li (2022), Tip-Adapter: Training-free
    Adaption of CLIP for Few-shot Classification, equations 3 to 6.
    Differs from the paper in the initial logits, which are those of CLIP's class names there; in
    row weights, which are 1 there; and in keys of one picture each, where the paper averages the
    features of 10 augmented copies.

    >>> import quickstudy as qs
    >>> learner = qs.FeatureCache(qs.frozen(qs.backbones.MLP(in_features=2)))
    >>> support = qs.examples([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).argmax(-1)
    tensor([0, 1])
    """

    answers = (Classes,)

    def __init__(
        self,
        backbone: nn.Module,
        initial: Learner | None = None,
        alpha: float = 1.17,
        beta: float = 1.0,
        steps: int = 0,
        rate: float = 0.001,
    ) -> None:
        super().__init__()
        if alpha <= 0 or beta <= 0 or rate <= 0 or steps < 0:
            raise ValueError(
                "FeatureCache: alpha, beta and rate must be positive, and steps at least 0; found "
                f"alpha={alpha}, beta={beta}, rate={rate}, steps={steps}."
            )
        if initial is not None and not isinstance(initial, Learner):
            raise ValueError(
                f"FeatureCache: initial must be a learner; found {type(initial).__name__}. Give "
                "for example qs.SimpleShot(torch.nn.Identity())."
            )
        if initial is not None:
            check_answer(initial, Classes(2))
        refuse_heads_and_maps(backbone, "FeatureCache")
        self.backbone, self.initial, self.alpha, self.beta = backbone, initial, alpha, beta
        self.steps, self.rate = steps, rate

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The keys and values of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        rows = support._replace(inputs=unit(features))
        counts = rows.weights.to(features.dtype)
        values = counts.unsqueeze(-1) * one_hot(rows.targets, spec.outputs, features.dtype)
        first = () if self.initial is None else self.initial.adapt(rows, spec)
        state = {
            "keys": rows.inputs, "values": values, "present": values.sum(0) > 0,
            "initial": first, "statistics": statistics,
        }  # fmt: skip
        return state | {"keys": self._learnt(state, rows, spec)} if self.steps else state

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The cache of all earlier rows and ``support``; the spec may add classes.

        Raises ValueError with ``steps``, where keys depend on all rows together; for an initial
        learner that cannot extend; and for a backbone that normalises by statistics of one support
        set.
        """
        refuse_shared_statistics(self.backbone, "FeatureCache")
        extend = getattr(self.initial, "extend", None)
        if self.steps or (self.initial is not None and extend is None):
            found = f"steps={self.steps}" if self.steps else type(self.initial).__name__
            raise ValueError(
                "FeatureCache: extend needs a cache that is not learnt, and an initial learner "
                f"that can extend; found {found}. Adapt to all rows at once."
            )
        more = self.adapt(support, spec)
        if extend is not None:
            rows = support._replace(inputs=more["keys"])
            more["initial"] = extend(state["initial"], labelled(rows, spec.answer), spec)
        values = torch.cat([widened(state["values"].mT, spec.outputs).mT, more["values"]])
        keys = torch.cat([state["keys"], more["keys"]])
        return more | {"keys": keys, "values": values, "present": values.sum(0) > 0}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        features = self.embed(state, inputs)
        votes = self._similarities(features, state["keys"]) @ state["values"]
        logits = self.alpha * votes + self._initial_logits(state, features, spec)
        return without_absent(logits, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of length 1, in the same space as the keys."""
        return unit(embed_query(self.backbone, inputs, state["statistics"]))

    def _similarities(self, features: Tensor, keys: Tensor) -> Tensor:
        similarities: Tensor = (-self.beta * (1 - features @ keys.mT)).exp()
        return similarities

    def _initial_logits(self, state: State, features: Tensor, spec: TaskSpec) -> Tensor | int:
        if self.initial is None:
            return 0
        logits: Tensor = self.initial.predict(state["initial"], features, spec)
        return logits

    def _learnt(self, state: State, rows: Examples, spec: TaskSpec) -> Tensor:
        """The keys after ``steps`` steps of AdamW on the support's cross entropy."""
        keys: Tensor = state["keys"]
        values, present = state["values"], state["present"]
        first = self._initial_logits(state, rows.inputs, spec)
        targets = one_hot(rows.targets, spec.outputs, keys.dtype)
        counts = rows.weights.to(keys.dtype)
        shares = counts / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
        mean = square = torch.zeros_like(keys)
        for step in range(self.steps):
            similarities = self._similarities(rows.inputs, keys)
            logits = without_absent(self.alpha * (similarities @ values) + first, present)
            errors = shares.unsqueeze(-1) * (logits.softmax(-1) - targets)
            # Each key's vote reaches the logit of its own class; one of weight 2 is two such keys.
            through = self.alpha * self.beta * (errors @ targets.mT) * similarities
            gradient = through.mT @ rows.inputs
            mean = FIRST_DECAY * mean + (1 - FIRST_DECAY) * gradient
            square = SECOND_DECAY * square + (1 - SECOND_DECAY) * gradient.square()
            unbiased = square / (1 - SECOND_DECAY ** (step + 1))
            rate = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            keys = (1 - rate * WEIGHT_DECAY) * keys - rate * (
                mean / (1 - FIRST_DECAY ** (step + 1)) / (_root(unbiased) + EPSILON)
            )
        return keys


def _root(squares: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
